"""An empty page: what a test does in it is the test's."""

from django.http import HttpResponse
from django.urls import path


def page(request):
    return HttpResponse('<!doctype html><title>A page</title><link rel="icon" href="data:,">')


urlpatterns = [path("", page)]
