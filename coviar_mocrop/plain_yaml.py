"""Read YAML as plain values: no code is run, dates stay text, and repeated keys are errors."""

from __future__ import annotations

from typing import Any

import yaml


def parse_yaml(text: str) -> Any:
    """Read one YAML document.

    Returns:
        Text, numbers, true or false, None, and lists and dictionaries of those.

    Raises:
        ValueError: the text is not YAML, or a key appears twice in a section. The message is one line.
    """
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    # PyYAML raises the last four for values that do not fit their tags, such as !!int x or !!bool x
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError) as error:
        raise ValueError(" ".join(str(error).split())) from error


class _Loader(yaml.SafeLoader):
    # YAML would turn dates into date objects, and refuse invalid ones; both can be names of folders
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse repeated keys. PyYAML itself would silently use the last one."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if names.count(name) > 1 and name != "<<":
                raise yaml.YAMLError(
                    f"key {name!r} appears twice in the section that starts in line {node.start_mark.line + 1}"
                )
        return super().construct_mapping(node, deep)
