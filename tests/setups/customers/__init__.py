"""The app of a project with tenants: who they are, and at which domain."""
