"""
What pyproject.toml cannot say: where the repository is, and a README for package pages.

Whoever publishes sets REPOSITORY_URL, as the workflow does; the package then links to its
source, and the README's links lead to the files of this version. Without it there is no
address that would be true: links to files become plain words.
"""

import os
import re
from email.parser import Parser
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
#: A link or a picture in Markdown, whose target is a file of the repository or a heading.
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:)([^)\s]*)\)")


def repository():
    """From the environment, or, where a wheel is built from an sdist, as that has it."""
    url = os.environ.get("REPOSITORY_URL", "")
    built = ROOT / "PKG-INFO"
    if not url and built.exists():
        labelled = Parser().parsestr(built.read_text()).get_all("Project-URL", [])
        url = next((one.split(", ", 1)[1] for one in labelled if one.startswith("Source, ")), "")
    return url.rstrip("/")


def version():
    found = re.search(
        r'^__version__ = "(.+)"$', (ROOT / "filtered_websocket/__init__.py").read_text(), re.M
    )
    return found[1]


def project_urls(url):
    """The labels that package indexes know, of the files that tell."""
    if not url:
        return {}
    files = f"{url}/blob/{tag()}"
    return {
        "Source": url,
        "Documentation": f"{files}/README.md#documentation",
        "Changelog": f"{files}/CHANGELOG.md",
        "Issues": f"{url}/issues",
        "Security": f"{files}/SECURITY.md",
    }


def tag():
    """Where the files of this version are: no tag is named like a development version."""
    return "HEAD" if ".dev" in version() else f"v{version()}"


def for_package_pages(text, url):
    """``text`` with links that work outside of the repository."""

    def absolute(found):
        picture, words, target = found.groups()
        if not url:
            return words
        if target.startswith("#"):
            target = f"README.md{target}"
        return f"{picture}[{words}]({url}/{'raw' if picture else 'blob'}/{tag()}/{target})"

    return LINK.sub(absolute, text)


if __name__ == "__main__":
    url = repository()
    setup(
        long_description=for_package_pages((ROOT / "README.md").read_text(), url),
        long_description_content_type="text/markdown",
        project_urls=project_urls(url),
    )
