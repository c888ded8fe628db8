"""The bill of materials, as CycloneDX 1.6: what is in the box, from where, with which sums, and what needs what.

Owns the document's shape. Invariant: it depends on nothing but its arguments, so that the same box has the same bill.
"""

import datetime
import json
import uuid

import spdx
from component import Component


def written(product: Component, components: list[Component], epoch: int) -> str:
    """The document; `components` are what `product` is made of, and `epoch` the second that it is of."""
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.fromtimestamp(epoch, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tools": {"components": [{"type": "application", "name": "scripts/dist.sh of clipserve", "version": product.version}]},
            "component": entry(product),
        },
        "components": [entry(component) for component in components],
        "dependencies": [
            {"ref": component.ref, "dependsOn": list(component.needs)} if component.needs else {"ref": component.ref}
            for component in [product, *components]
        ],
    }
    # A name that follows from the content: the same document has the same one.
    document["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(document)).urn
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def entry(component: Component) -> dict:
    said = {"type": component.kind, "bom-ref": component.ref, "name": component.name}
    if component.version:
        said["version"] = component.version
    if component.sha256:
        said["hashes"] = [{"alg": "SHA-256", "content": component.sha256}]
    # A lone licence goes by its id, several by their expression.
    lone = spdx.alternatives(component.licence) == [frozenset([component.licence])] and " WITH " not in component.licence
    said["licenses"] = [{"license": {"id": component.licence}} if lone else {"expression": component.licence}]
    if component.cpe:
        said["cpe"] = component.cpe
    if component.purl:
        said["purl"] = component.purl
    if component.files:
        said["components"] = [
            {"type": "file", "bom-ref": f"{component.ref}#{name}", "name": name, "hashes": [{"alg": "SHA-256", "content": sum}]}
            for name, sum in component.files
        ]
    return said
