"""The blocks of an option file that docs/ shows, for tests that build them."""

import re

from tests.conftest import ROOT


def block(page, name, language):
    """The text of the block of ``docs/PAGE`` below ``<!-- test: NAME -->``."""
    text = (ROOT / 'docs' / page).read_text(encoding='utf-8')
    (found,) = re.findall(rf'<!-- test: {name} -->\n```{language}\n(.*?)```', text, re.DOTALL)
    return found
