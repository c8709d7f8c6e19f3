"""One side of the race."""

from django.urls import path

from . import views

urlpatterns = [
    path("start/", views.start),
    path("write/<int:number>/", views.write),
    path("kept/", views.kept),
    path("tidy/", views.tidy),
]
