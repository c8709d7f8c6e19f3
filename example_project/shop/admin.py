from django.contrib import admin
from django.contrib.auth import admin as auth_admin
from django.contrib.auth.models import User

from django_strategy_sessions.admin import UserSessionsMixin

admin.site.unregister(User)


@admin.register(User)
class UserAdmin(UserSessionsMixin, auth_admin.UserAdmin):
    pass
