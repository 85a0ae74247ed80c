"""Train super-resolution and restoration networks for what people see.

``iqa`` scores images, ``losses`` turns scores into training losses, ``evaluation`` tells whether they
helped, ``archs`` holds networks the frameworks lack, and ``basicsr`` is the adapter that plugs all of it
into BasicSR's registries: importing it is the registration. The core knows PyTorch and no framework.
"""

__version__ = '0.1.0'
