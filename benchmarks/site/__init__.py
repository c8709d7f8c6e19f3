"""A small site with login, as `startproject` sets one up, and visitors for it."""
