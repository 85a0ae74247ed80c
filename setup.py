"""Package metadata: the core needs PyTorch only, every framework and judge collection is an extra."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def read(name):
    """The text of a file beside this one, or '' when it is not there."""
    path = HERE / name
    return path.read_text(encoding='utf-8') if path.is_file() else ''


VERSION = re.search(r"^__version__ = '([^']+)'", read('nriqa_plugin/__init__.py'), re.MULTILINE).group(1)

EXTRAS = {
    # basicsr-fixed is BasicSR 1.4.2 with the import that torchvision 0.17 broke mended; the module is `basicsr`.
    'basicsr': ['basicsr-fixed>=1.4.2', 'opencv-python<4.12'],
    # The newest versions that mmagic 1.2.0 imports with; it forgets to ask for albumentations.
    'mmagic': [
        'mmagic==1.2.0',
        'mmcv>=2.0,<2.2',
        'mmengine==0.10.7',
        'accelerate<0.26',
        'albumentations<1.4',
        'controlnet_aux==0.0.7',
        'diffusers==0.24.0',
        'huggingface_hub<0.26',
        'opencv-contrib-python<4.12',
        'opencv-python<4.12',
        'transformers==4.37.2',
    ],
    'iqa': ['lpips==0.1.4', 'opencv-python-headless<4.12', 'piq>=0.8', 'pyiqa==0.1.15.post2'],
    'gts': ['spandrel==0.4.2'],
    'report': ['jinja2', 'matplotlib', 'scikit-image', 'scipy'],
    'video': ['av>=15'],
    'dev': ['choix', 'pytest', 'pytest-xdist', 'ruff==0.17.5', 'scikit-learn', 'selenium', 'spandrel==0.4.2'],
}

setup(
    name='nriqa-plugin',
    version=VERSION,
    description='Train BasicSR and mmagic super-resolution models for what people see, by their option file only',
    long_description=read('README.md'),
    long_description_content_type='text/markdown',
    author='The nriqa-plugin authors',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords='super-resolution, image quality assessment, perceptual loss, BasicSR, mmagic, PyTorch',
    classifiers=[
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Image Processing',
    ],
    packages=find_packages(include=['nriqa_plugin', 'nriqa_plugin.*']),
    package_data={'nriqa_plugin': ['*.j2', '**/*.j2', 'report/*.css', 'report/*.js']},
    python_requires='>=3.10,<3.13',
    install_requires=['torch>=2.1', 'torchvision', 'numpy<2', 'Pillow', 'rich', 'typer'],
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['nriqa = nriqa_plugin.cli:main']},
)
