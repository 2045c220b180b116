"""Modules of a site, made of the blocks of a page."""

import sys
import types

import filtered_websocket

from ..snippets import named


def make_module(page, label, name, site="mysite", **names):
    """
    Have ``import NAME`` find a module in which the block under ``label`` was run.

    ``names`` are in it before, and what ``filtered_websocket`` exports, which not every block
    imports again. ``site`` stands for ``mysite`` in the block.
    """
    module = types.ModuleType(name)
    exported = {key: getattr(filtered_websocket, key) for key in filtered_websocket.__all__}
    vars(module).update({**exported, **names})
    sys.modules[name] = module
    code = named(page)[label].replace("mysite", site)
    exec(compile(code, f"{page}: {label}", "exec"), vars(module))
    return module


def make_package(name):
    package = types.ModuleType(name)
    package.__path__ = []
    sys.modules[name] = package
    return package
