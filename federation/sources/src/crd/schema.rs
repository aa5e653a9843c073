//! Schemas of the Kubernetes types that our objects reuse, so that Kubernetes' whole API need not be
//! built with schemas. Field names and meanings: `meta/v1` LabelSelector, `networking/v1`.

use schemars::{Schema, SchemaGenerator, json_schema};

/// `meta/v1` LabelSelector.
pub fn label_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "matchLabels": {
                "type": "object",
                "description": "Labels that must exist with these values.",
                "additionalProperties": {"type": "string"},
            },
            "matchExpressions": {
                "type": "array",
                "description": "Requirements that must all hold.",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {"type": "string"},
                        "operator": {
                            "type": "string",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {"type": "array", "items": {"type": "string"}},
                    },
                },
            },
        },
    })
}

/// `networking/v1` IPBlock.
pub fn ip_block(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "required": ["cidr"],
        "properties": {
            "cidr": {"type": "string", "description": "A prefix such as 10.0.0.0/8."},
            "except": {
                "type": "array",
                "description": "Longer prefixes inside `cidr` that do not match.",
                "items": {"type": "string"},
            },
        },
    })
}

/// A list of `networking/v1` NetworkPolicyPort.
pub fn ports(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "protocol": {"type": "string", "enum": ["TCP", "UDP", "SCTP"]},
                "port": {
                    "description": "A number, or a name that the destination pod gives.",
                    "x-kubernetes-int-or-string": true,
                },
                "endPort": {
                    "type": "integer",
                    "format": "int32",
                    "minimum": 1,
                    "maximum": 65535,
                    "description": "The last port of a range that begins with `port`.",
                },
            },
        },
    })
}
