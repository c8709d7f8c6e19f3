"""What the tests of django-two-factor-auth import, and its source distribution leaves out.

These files are put beside its tests, in a package that is called ``tests`` there.
"""
