from django.contrib import admin
from django.urls import path

from .urls import urlpatterns as pages

urlpatterns = [*pages, path("admin/", admin.site.urls)]
