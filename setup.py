"""The packages. Settings and class names lie beside the package in a clone and are installed in it."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["coviar_mocrop*"]), "coviar_mocrop.configs", "coviar_mocrop.data_lists"],
    package_dir={"coviar_mocrop.configs": "configs", "coviar_mocrop.data_lists": "data_lists"},
    package_data={
        "coviar_mocrop.configs": ["*.yaml", "*/*.yaml"],
        "coviar_mocrop.data_lists": ["ucf101/classes.txt", "hmdb51/classes.txt"],
    },
)
