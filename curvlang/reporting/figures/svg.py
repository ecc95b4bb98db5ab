"""A small SVG of a figure: text as text, places to a hundredth of a point, what all parts of a group share said once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
GROUP = f"{{{SVG}}}g"
FONTS = "DejaVu Sans, Verdana, sans-serif"
"""Verdana, of Windows and macOS, is as wide as the font that the figure was laid out with."""
_PLACES = ("d", "points", "x", "y", "x1", "x2", "y1", "y2", "width", "height")
_DECIMALS = re.compile(r"-?\d+\.\d{3,}")
_TURNED_BY_NOTHING = re.compile(r"rotate\(-?0(?: [^)]*)?\)")
_NOT_INHERITED = re.compile(r"(?:^|;)(?:opacity|clip|mask|filter)")
_COMMAND = re.compile(r"[A-Za-z][^A-Za-z]*")


def small(text: str, name: str) -> str:
    """The `svg` element of a figure as matplotlib writes it, small; every id carries the figure's name.

    >>> line = '<svg xmlns="http://www.w3.org/2000/svg"><g id="a"><path d="M 0 1.2345 L 2 3 L 4 5 "/></g></svg>'
    >>> small(line, "sweep")[-41:]
    'round"><path d="M0 1.23 2 3 4 5" /></svg>'
    """
    root = ElementTree.fromstring(text)
    named = dict.fromkeys(re.findall(r'(?:href="|url\()#([^")]+)', text))
    ids = {x: f"{name}-{k}" for k, x in enumerate(named)}
    for node in [*root.iter()]:
        node[:] = [x for x in node if x.tag not in (f"{{{SVG}}}metadata", f"{{{SVG}}}style")]
        node.text, node.tail = (node.text or "").strip() or None, None
        shown = {key: _attribute(key, value, ids) for key, value in node.attrib.items()}
        node.attrib.clear()
        node.attrib.update({key: value for key, value in shown.items() if value})
    _gather(root)
    root.set("font-family", FONTS)
    root.set("stroke-linejoin", "round")
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return ElementTree.tostring(root, "unicode")


def _attribute(key: str, value: str, ids: Mapping[str, str]) -> str:
    """One attribute, shortened; empty where it says nothing, as an id does that nothing refers to."""
    if key == "id":
        return ids.get(value, "")
    if key == f"{{{XLINK}}}href":
        return f"#{ids[value[1:]]}" if value.startswith("#") else value
    value = re.sub(r"url\(#([^)]+)\)", lambda x: f"url(#{ids[x[1]]})", value)
    if key == "style":
        kept = [x for x in re.split(r"; *", value) if not x.startswith("font-family")]
        return ";".join(kept).replace(": ", ":")
    if key == "transform" and "scale" not in value and "matrix" not in value:
        return _DECIMALS.sub(_rounded, _TURNED_BY_NOTHING.sub("", value)).strip()
    if key in _PLACES:
        value = _DECIMALS.sub(_rounded, value)
    return _path(value) if key == "d" else value


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def _path(text: str) -> str:
    """Commands of a path without what may be left out: lines that follow a place, and spaces."""
    found, before = "", ""
    for command, places in ((x[0], " ".join(x[1:].split())) for x in _COMMAND.findall(text)):
        found += f" {places}" if command == "L" and before in ("L", "M") else command + places
        before = command
    return found


def _gather(node: Element) -> None:
    """No group without attributes or contents; what all parts of a group have as their style is the group's."""
    for part in node:
        _gather(part)
    node[:] = [y for x in node for y in ([*x] if x.tag == GROUP and not x.attrib else [x])]
    style, *others = {x.get("style", "") for x in node} or {""}
    if others or len(node) == 1 or node.tag != GROUP or "style" in node.attrib:
        return
    if style and not _NOT_INHERITED.search(style):
        node.set("style", style)
        for part in node:
            part.attrib.pop("style")
