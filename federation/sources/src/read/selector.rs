//! `meta/v1` LabelSelector -> the model's, validated as `ValidateLabelSelector` of the API server
//! does.

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use policy::{
    expression::{Labels, parse},
    model::{LabelSelector, Operator, Requirement},
};

use super::names::{check_label_key, check_label_value};
use crate::fault::{Faults, FieldPath};

/// All requirements of `selector`; an empty one has none and matches everything.
pub(super) fn selector(
    selector: &meta::LabelSelector,
    path: &FieldPath,
    faults: &mut Faults,
) -> LabelSelector {
    let mut requirements = Vec::new();
    let path_of_labels = path.key("matchLabels");
    for (key, value) in selector.match_labels.iter().flatten() {
        check_label_key(key, path_of_labels.key(key), faults);
        check_label_value(value, path_of_labels.key(key), faults);
        requirements.push(Requirement {
            key: key.clone(),
            operator: Operator::In(vec![value.clone()]),
        });
    }
    let path = path.key("matchExpressions");
    for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
        requirements.extend(requirement(expression, &path.index(index), faults));
    }
    requirements.into_iter().collect()
}

/// What all three choices of pods select together.
pub(super) fn chosen_pods(
    labels: Option<&meta::LabelSelector>,
    (text, not): (Option<&str>, Option<&str>),
    path: &FieldPath,
    faults: &mut Faults,
) -> LabelSelector {
    let mut chosen = labels.map_or_else(LabelSelector::default, |labels| {
        selector(labels, &path.key("podSelector"), faults)
    });
    if let Some(text) = text {
        chosen
            .0
            .extend(expression(text, Labels::OfWorkloads, path.key("selector"), faults).0);
    }
    if let Some(text) = not {
        let unwanted = expression(text, Labels::OfWorkloads, path.key("notSelector"), faults);
        chosen.0.extend((!unwanted).0);
    }
    chosen
}

/// The selector that `text` describes.
pub(super) fn expression(
    text: &str,
    labels: Labels,
    path: FieldPath,
    faults: &mut Faults,
) -> LabelSelector {
    match parse(text, labels) {
        Ok(selector) => {
            if labels == Labels::OfNamespaces && text.contains("global()") {
                let message = "every identity has a namespace, so global() fits nothing";
                faults.warn(path, message, "all(), or labels of namespaces");
            }
            selector
        }
        Err(error) => {
            let expected = "such as app == \"api\" && !has(legacy)";
            faults.add(path, error.to_string(), expected);
            LabelSelector::default()
        }
    }
}

fn requirement(
    expression: &meta::LabelSelectorRequirement,
    path: &FieldPath,
    faults: &mut Faults,
) -> Option<Requirement> {
    check_label_key(&expression.key, path.key("key"), faults);
    let values = expression.values.clone().unwrap_or_default();
    let path_of_values = path.key("values");
    for (index, value) in values.iter().enumerate() {
        check_label_value(value, path_of_values.index(index), faults);
    }
    let word = expression.operator.as_str();
    let mut want_values = |wanted: bool| match (wanted, values.is_empty()) {
        (true, true) => {
            let message = format!("operator {word} has no values");
            faults.add(path_of_values.clone(), message, "at least one value");
        }
        (false, false) => {
            let message = format!("operator {word} takes no values");
            faults.add(path_of_values.clone(), message, "no values");
        }
        (true, false) | (false, true) => {}
    };
    let operator = match word {
        "In" | "NotIn" => {
            want_values(true);
            if word == "In" {
                Operator::In(values)
            } else {
                Operator::NotIn(values)
            }
        }
        "Exists" => {
            want_values(false);
            Operator::Exists
        }
        "DoesNotExist" => {
            want_values(false);
            Operator::DoesNotExist
        }
        _ => {
            let message = if word.is_empty() {
                "the operator is missing".into()
            } else {
                format!("{word:?} is no operator")
            };
            let expected = "one of In, NotIn, Exists, DoesNotExist";
            faults.add(path.key("operator"), message, expected);
            return None;
        }
    };
    Some(Requirement {
        key: expression.key.clone(),
        operator,
    })
}
