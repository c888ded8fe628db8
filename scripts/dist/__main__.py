"""What `scripts/dist.sh` calls for what a shell does badly: licences, the bill of materials, the wheel.

    python3 scripts/dist licences FOLDER           of the crates alone, on standard output; texts that are no plain text go to FOLDER
    python3 scripts/dist describe BOX EPOCH        the same of all that is in BOX, and its bill of materials, into BOX
    python3 scripts/dist wheel BOX OUT TAG EPOCH   the wheel of BOX, into OUT

Standard input is what `cargo metadata` prints, for the platform that is packed. A fault is one line and exit code 1.
"""

import json
import pathlib
import sys

if sys.version_info < (3, 11):
    sys.exit("dist: python3 is {}.{}, and 3.11 or later is needed, which reads TOML: put one first in PATH".format(*sys.version_info))

import bundled
import crates
import licences
import sbom
import wheel
from component import Component
from fault import Fault


def in_program(metadata: dict) -> list[Component]:
    """The crates, and what they and we have in the program beside."""
    linked = crates.linked(metadata)
    names = {crate.ref for crate in linked}
    carried = [
        component
        for package in metadata["packages"]
        if crates.ref(package) in names
        for component in bundled.carried(package)
    ]
    return linked + carried


def describe(metadata: dict, package: dict, box: pathlib.Path, epoch: int) -> None:
    components = in_program(metadata) + bundled.inside() + bundled.beside(box, package["version"])
    (box / "licenses/THIRD-PARTY.txt").write_text(licences.written(components, box / "licenses"))
    loose = [component.ref for component in components if not component.ref.startswith("pkg:cargo/")]
    product = Component(
        kind="application",
        name=package["name"],
        version=package["version"],
        ref=crates.ref(package),
        purl=crates.ref(package),
        licence=package["license"],
        sha256=bundled.sha256(box / "clipserve"),
        needs=tuple(sorted([*crates.direct(metadata), *loose])),
    )
    (box / "clipserve.cdx.json").write_text(sbom.written(product, components, epoch))


def main() -> None:
    metadata = json.load(sys.stdin)
    package = next(package for package in metadata["packages"] if package["id"] == metadata["resolve"]["root"])
    command, *arguments = sys.argv[1:] or [""]
    if command == "licences" and len(arguments) == 1:
        sys.stdout.write(licences.written(in_program(metadata), pathlib.Path(arguments[0])))
    elif command == "describe" and len(arguments) == 2:
        describe(metadata, package, pathlib.Path(arguments[0]), int(arguments[1]))
    elif command == "wheel" and len(arguments) == 4:
        box, out, tag, epoch = arguments
        wheel.written(pathlib.Path(box), pathlib.Path(out), package=package, tag=tag, epoch=int(epoch))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main()
    except Fault as fault:
        sys.exit(f"dist: {fault}")
