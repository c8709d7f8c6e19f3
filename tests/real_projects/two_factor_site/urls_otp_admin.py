from django.urls import path
from two_factor.admin import AdminSiteOTPRequired

from .urls import urlpatterns as pages

urlpatterns = [*pages, path("otp_admin/", AdminSiteOTPRequired().urls)]
