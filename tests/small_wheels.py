"""Wheels that hold hardly more than their metadata."""

from __future__ import annotations

import io
import re
import zipfile


def wheel(
    name: str, version: str, *, tag: str = "py3-none-any", needs: str = "", content: str = ""
) -> tuple[str, bytes]:
    """File name and bytes of a wheel that holds its metadata alone; ``needs`` has a requirement a line."""
    data = io.BytesIO()
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(data, "w") as archive:
        needed = "".join(f"Requires-Dist: {each}\n" for each in needs.splitlines())
        needed += "".join(f"Provides-Extra: {each}\n" for each in sorted(set(re.findall("extra == '(.+?)'", needs))))
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{name}.py", content)
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return f"{name}-{version}-{tag}.whl", data.getvalue()
