//! Fields of other systems' policies that people bring along, and why nothing like them is here.

/// Why there is no such field, as the end of a sentence.
pub(crate) fn reason(field: &str) -> Option<&'static str> {
    Some(match field {
        "http" | "httpPaths" | "l7" => {
            "looks into requests, which nothing here does: policy is decided on the identities of both ends before the first byte; \
             leave HTTP to a proxy or a service mesh"
        }
        "applyOnForward" => {
            "is about traffic that a host forwards: here every connection of a pod is judged by its own two ends, \
             wherever it is forwarded"
        }
        "preDNAT" => {
            "is about destinations before translation: here the destination is the pod that answers and proves its \
             identity, after every translation"
        }
        "doNotTrack" => {
            "leaves out the connection table: here a connection exists only after both ends are authenticated, so \
             there is no untracked one"
        }
        _ => return None,
    })
}
