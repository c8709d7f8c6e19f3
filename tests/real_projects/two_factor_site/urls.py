from django.contrib.auth.views import LogoutView
from django.http import HttpResponse
from django.urls import include, path
from django.views.generic import TemplateView
from two_factor.gateways.twilio.urls import urlpatterns as twilio
from two_factor.urls import urlpatterns as two_factor
from two_factor.views import LoginView, SetupView
from two_factor.views.mixins import OTPRequiredMixin


class SecureView(OTPRequiredMixin, TemplateView):
    template_name = "secure.html"


def log_in(name, **options):
    return path(f"account/{name}/", LoginView.as_view(**options), name=name)


urlpatterns = [
    log_in("login"),
    log_in("custom-field-name-login", redirect_field_name="next_page"),
    log_in(
        "custom-allowed-success-url-login",
        success_url_allowed_hosts={"test.allowed-success-url.com"},
    ),
    log_in("custom-redirect-authenticated-user-login", redirect_authenticated_user=True),
    path("account/logout/", LogoutView.as_view(), name="logout"),
    path(
        "account/setup-backup-tokens-redirect/",
        SetupView.as_view(success_url="two_factor:backup_tokens"),
        name="setup-backup_tokens-redirect",
    ),
    path("plain/", lambda request: HttpResponse("plain"), name="plain"),
    path("secure/", SecureView.as_view()),
    path("secure/raises/", SecureView.as_view(raise_anonymous=True, raise_unverified=True)),
    path(
        "secure/redirect_unverified/",
        SecureView.as_view(raise_anonymous=True, verification_url="/account/login/"),
    ),
    path("", include(two_factor)),
    path("", include(twilio)),
]
