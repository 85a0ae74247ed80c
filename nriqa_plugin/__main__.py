"""``python -m nriqa_plugin`` is the ``nriqa`` command."""

from nriqa_plugin.cli import main

main()
