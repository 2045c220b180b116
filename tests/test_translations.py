"""The strings of the admin, in each language that the package has."""

import re

import polib
import pytest
from django.utils import translation

from .translations import LOCALES, catalogs, missing, of_python, of_template, strings, update

pytestmark = pytest.mark.repeats
CATALOGS = catalogs()
#: ``%s``, ``%(name)s``, ``%d``.
PLACES = re.compile(r"%(?:\(\w+\))?[sd]")


def test_the_languages_are_those_that_the_metadata_names():
    assert set(CATALOGS) == {"de", "es", "fr", "zh_Hans"}


@pytest.mark.parametrize("language", CATALOGS)
def test_every_string_is_translated(language):
    """``make messages`` adds the new ones to each django.po."""
    assert missing(CATALOGS[language], strings()) == []
    assert {entry.msgid for entry in CATALOGS[language]} == set(strings())


@pytest.mark.parametrize("language", CATALOGS)
def test_a_translation_takes_the_values_that_the_string_takes(language):
    for entry in CATALOGS[language]:
        for text in entry.msgstr_plural.values() or [entry.msgstr]:
            assert sorted(PLACES.findall(text)) == sorted(PLACES.findall(entry.msgid)), text


@pytest.mark.parametrize("language", CATALOGS)
def test_what_is_compiled_is_what_is_written(language):
    """``make messages`` compiles it."""
    compiled = polib.mofile(str(LOCALES / language / "LC_MESSAGES/django.mo"))
    tell = lambda entry: (entry.msgid, entry.msgstr, entry.msgstr_plural)  # noqa: E731
    assert sorted(map(str, map(tell, compiled))) == sorted(map(str, map(tell, CATALOGS[language])))


@pytest.mark.parametrize("language", CATALOGS)
def test_django_shows_it(language):
    code = language.replace("_", "-").lower()
    with translation.override(code):
        for entry in CATALOGS[language]:
            if entry.msgid_plural:
                one = translation.ngettext(entry.msgid, entry.msgid_plural, 1)
                assert one == entry.msgstr_plural[0]
            else:
                assert translation.gettext(entry.msgid) == entry.msgstr


def test_what_is_marked_is_found_in_modules_and_templates():
    module = 'x = _("a %s") % b\ny = ngettext("one", "many", 2)\nz = other("no")\n'
    assert dict(of_python(module)) == {"a %s": "", "one": "many"}
    template = (
        '{% translate "a “b”" %}<a title="{% translate \'c\' %}">'
        "{% blocktranslate count n=n %}one{% plural %}{{ n }} of them{% endblocktranslate %}"
    )
    assert list(of_template(template)) == [("a “b”", ""), ("c", ""), ("one", "%(n)s of them")]


def test_what_is_new_waits_for_its_translation_and_what_is_gone_goes():
    catalog = polib.POFile()
    catalog.metadata = {"Plural-Forms": "nplurals=2; plural=(n != 1);"}
    catalog.append(polib.POEntry(msgid="gone", msgstr="weg"))
    catalog.append(polib.POEntry(msgid="kept", msgstr="bleibt"))
    catalog.append(polib.POEntry(msgid="unsure", msgstr="?", flags=["fuzzy"]))
    wanted = {"kept": "", "one": "many", "unsure": ""}
    update(catalog, wanted)
    assert [entry.msgid for entry in catalog] == ["kept", "one", "unsure"]
    assert missing(catalog, wanted) == [("one", "many"), ("unsure", "")]
