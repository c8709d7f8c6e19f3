"""An engine that is no subclass of Django's, with its model beside it, as django-user-sessions."""

from django.contrib.sessions.backends.base import CreateError, SessionBase
from django.contrib.sessions.models import Session
from django.db import IntegrityError, transaction
from django.utils import timezone


class SessionStore(SessionBase):
    def __init__(self, session_key=None, user_agent=None):
        super().__init__(session_key)
        self.user_agent = user_agent

    def load(self):
        row = Session.objects.filter(pk=self.session_key, expire_date__gt=timezone.now()).first()
        if row is None:
            self.create()
            return {}
        return self.decode(row.session_data)

    def exists(self, session_key):
        return Session.objects.filter(pk=session_key).exists()

    def create(self):
        self._session_key = self._get_new_session_key()
        self.save(must_create=True)
        self.modified = True
        self._session_cache = {}

    def save(self, must_create=False):
        row = Session(
            session_key=self._get_or_create_session_key(),
            session_data=self.encode(self._get_session(no_load=must_create)),
            expire_date=self.get_expiry_date(),
        )
        try:
            with transaction.atomic():
                row.save(force_insert=must_create)
        except IntegrityError as error:
            raise CreateError from error

    def delete(self, session_key=None):
        Session.objects.filter(pk=session_key or self.session_key).delete()

    @classmethod
    def clear_expired(cls):
        Session.objects.filter(expire_date__lt=timezone.now()).delete()
