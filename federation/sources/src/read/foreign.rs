//! Kinds of Kubernetes that say nothing about identity or policy. A folder that was made for a cluster
//! holds them beside those that do, and they are no slip of the pen.

/// Why an object of another system's kind is refused, as the end of a sentence.
pub(super) fn refusal(api_version: Option<&str>, kind: &str) -> Option<&'static str> {
    let (group, _) = api_version?.rsplit_once('/').unwrap_or_default();
    match (group, kind) {
        ("projectcalico.org" | "crd.projectcalico.org", "HostEndpoint") => Some(
            "is about the traffic of a host itself. Here policy is decided between workloads that prove who they are: a host's \
             own processes are the node of its pods, which may always reach them, and a plain address for everything else \
             (`ipBlock`). What runs on or behind a host and has an identity is a Workload of landbridge.io/v1alpha1",
        ),
        _ => None,
    }
}

/// What an object of another kind means here, as the end of a sentence; `None` when nobody knows, so
/// that a policy of a kind that is not read is refused and not passed over.
pub(super) fn meaning(api_version: Option<&str>, kind: &str) -> Option<&'static str> {
    let (group, _) = api_version?.rsplit_once('/').unwrap_or_default();
    match (group, kind) {
        (
            "apps" | "batch",
            "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" | "CronJob",
        )
        | ("", "ReplicationController") => {
            Some("makes no pods here: without a Kubernetes controller, only a Pod is one")
        }
        ("", "Service" | "Endpoints") | ("discovery.k8s.io", "EndpointSlice") => {
            Some("is passed over: connections are made to the addresses of pods")
        }
        (
            "",
            "ConfigMap"
            | "Secret"
            | "Event"
            | "LimitRange"
            | "ResourceQuota"
            | "PersistentVolume"
            | "PersistentVolumeClaim"
            | "PodTemplate",
        )
        | ("networking.k8s.io", "Ingress" | "IngressClass")
        | (
            "rbac.authorization.k8s.io",
            "Role" | "RoleBinding" | "ClusterRole" | "ClusterRoleBinding",
        )
        | ("autoscaling", "HorizontalPodAutoscaler")
        | ("policy", "PodDisruptionBudget")
        | ("storage.k8s.io", "StorageClass")
        | ("scheduling.k8s.io", "PriorityClass")
        | ("apiextensions.k8s.io", "CustomResourceDefinition") => Some("is passed over"),
        _ => None,
    }
}
