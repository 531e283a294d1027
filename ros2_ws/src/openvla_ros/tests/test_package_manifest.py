"""``package.xml`` is one that ROS accepts: its schema where ament is installed, its main rules everywhere.

Of the ament linters this is the only one used: style is ruff's (110 columns, double quotes), which
ament_flake8 and ament_pep257 contradict, and the licence is one LICENSE file, which ament_copyright
does not accept in place of a header in every file.
"""

import importlib.util
import xml.etree.ElementTree as ElementTree

import pytest
from support.import_graph import SOURCE

MANIFESTS = [SOURCE / "package.xml", SOURCE.parent / "openvla_interfaces" / "package.xml"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.parent.name)
def test_the_schema_of_ros_accepts_it(path):
    if importlib.util.find_spec("ament_xmllint") is None:
        pytest.skip("needs ament_xmllint, of an installed ROS 2: PyPI has no wheel")
    from ament_xmllint.main import main

    assert main(argv=[str(path)]) == 0


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.parent.name)
def test_it_names_what_ros_requires(path):
    root = ElementTree.parse(path).getroot()
    assert root.tag == "package"
    assert root.get("format") == "3"
    assert root.findtext("name") == path.parent.name
    assert all(
        (root.findtext(tag) or "").strip() for tag in ("version", "description", "maintainer", "license")
    )
    named = [(item.tag, item.text) for item in root if item.tag.endswith("depend")]
    assert len(set(named)) == len(named), "a dependency is named twice"
