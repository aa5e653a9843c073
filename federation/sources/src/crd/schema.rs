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

/// `meta/v1` Condition, several of which are told apart by their type.
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {"type": "string", "maxLength": 316},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
                "message": {"type": "string", "maxLength": 32768},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                "lastTransitionTime": {"type": "string", "format": "date-time"},
            },
        },
    })
}

/// A number or a name.
pub fn int_or_string(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"x-kubernetes-int-or-string": true})
}

/// Numbers or names.
pub fn int_or_strings(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "items": {"x-kubernetes-int-or-string": true}})
}
