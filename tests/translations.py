"""
The translated strings of the package: ``make messages`` brings each .po up to date, and
compiles the .mo, which is committed too: who installs from a checkout may have no gettext.
"""

import ast
import functools
import re
from pathlib import Path

import polib
from django.utils.translation.template import templatize

import filtered_websocket

PACKAGE = Path(filtered_websocket.__file__).parent
LOCALES = PACKAGE / "locale"
#: Each function that marks a string, and whether it takes a plural.
MARKS = {"_": False, "gettext": False, "gettext_lazy": False, "ngettext": True}
QUOTED = r"""u?("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
#: A call in what Django makes of a template.
CALL = re.compile(rf"\b(_|gettext|ngettext)\(\s*{QUOTED}(?:,\s*{QUOTED})?")


def of_python(text):
    """``(string, plural or "")`` of each marked string of a module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in MARKS:
            parts = [ast.literal_eval(part) for part in node.args[: 1 + MARKS[node.func.id]]]
            yield parts[0], parts[1] if len(parts) > 1 else ""


def of_template(text):
    for _, string, plural in CALL.findall(templatize(text)):
        yield ast.literal_eval(string), ast.literal_eval(plural or "''")


@functools.cache
def strings(folder=PACKAGE):
    """Each string of the package that is translated -> its plural, or ``""``."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        found.update(of_python(path.read_text()))
    for path in sorted(folder.glob("templates/**/*.html")):
        found.update(of_template(path.read_text()))
    return found


def catalogs():
    """Language -> its .po."""
    return {
        path.parent.parent.name: polib.pofile(str(path), wrapwidth=100)
        for path in sorted(LOCALES.glob("*/LC_MESSAGES/django.po"))
    }


def update(catalog, wanted):
    """Add what is new, without a translation; remove what no file has any more."""
    for entry in [one for one in catalog if wanted.get(one.msgid) != (one.msgid_plural or "")]:
        catalog.remove(entry)
    for string in wanted.keys() - {entry.msgid for entry in catalog}:
        entry = polib.POEntry(msgid=string, msgid_plural=wanted[string])
        if wanted[string]:
            entry.msgstr_plural = dict.fromkeys(range(plurals(catalog)), "")
        catalog.append(entry)
    catalog.sort(key=lambda entry: (entry.msgid.lower(), entry.msgid))


def plurals(catalog):
    return int(re.match(r"nplurals=(\d+)", catalog.metadata["Plural-Forms"])[1])


def missing(catalog, wanted):
    """The strings that have no translation here, or an unsure one."""
    told = {
        (entry.msgid, entry.msgid_plural or "")
        for entry in catalog
        if not entry.fuzzy and all(entry.msgstr_plural.values() or [entry.msgstr])
    }
    return sorted(set(wanted.items()) - told)


def main():
    wanted = strings()
    for language, catalog in catalogs().items():
        update(catalog, wanted)
        catalog.save()
        catalog.save_as_mofile(str(LOCALES / language / "LC_MESSAGES/django.mo"))
        for string, _ in missing(catalog, wanted):
            print(f"{language}: not translated: {string!r}")


if __name__ == "__main__":
    main()
