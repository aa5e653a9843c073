//! A real Kubernetes API server, built from its Go modules by scripts/kubernetes, with an etcd of its own.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

/// Longer than a start takes.
const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "of-the-admin";

/// The program; `None`, said loudly, without Go; under CI that is a failure.
pub fn program() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(build).as_deref()
}

fn build() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("scripts/kubernetes"))
        .find(|script| script.exists())
        .unwrap();
    let output = Command::new(script).output().unwrap();
    if output.status.success() {
        let path = String::from_utf8(output.stdout).unwrap();
        return Some(path.trim().into());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    let why = format!("tests against Kubernetes need its program: {why}");
    let ci = env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!ci, "{why}; in CI that is a failure");
    // Not by `eprintln!`, whose output the test runner keeps to itself when a test passes.
    let bar = "=".repeat(80);
    let _ = writeln!(std::io::stderr(), "\n{bar}\nSKIPPED: {why}\n{bar}");
    None
}

/// An API server on loopback, in a network namespace; ended when dropped.
pub struct ApiServer {
    program: &'static Path,
    namespace: String,
    folder: tempfile::TempDir,
    etcd: Child,
    api: Option<Child>,
}

impl ApiServer {
    /// Starts one in the network namespace of that name.
    pub fn start(program: &'static Path, namespace: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("etcd").display().to_string();
        let etcd = [
            "etcd",
            "--data-dir",
            &data,
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
            "--log-level=error",
        ];
        let log = folder.path().join("etcd.log");
        let mut server = Self {
            program,
            namespace: namespace.into(),
            etcd: within(namespace, program)
                .args(etcd)
                .stdout(Stdio::null())
                .stderr(fs::File::create(log).unwrap())
                .spawn()
                .unwrap(),
            folder,
            api: None,
        };
        let key = server.path("accounts.pem");
        let made = Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(&key)
            .stderr(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        let users = format!("{TOKEN},admin,1,\"system:masters\"\nof-a-gateway,gateway,2\n");
        fs::write(server.path("tokens"), users).unwrap();
        server.run();
        for (user, token) in [("admin", TOKEN), ("gateway", "of-a-gateway")] {
            let config = format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: one\nclusters:\n- name: one\n  cluster: \
                 {{server: \"https://127.0.0.1:6443\", certificate-authority: {}}}\nusers:\n- name: \
                 {user}\n  user: {{token: {token}}}\ncontexts:\n- name: one\n  context: {{cluster: one, \
                 user: {user}}}\n",
                server.path("certificates/apiserver.crt").display(),
            );
            fs::write(server.kubeconfig(user), config).unwrap();
        }
        server.until_ready();
        server
    }

    /// As `admin` or as `gateway`, who may do nothing yet.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.path(user)
    }

    /// Starts the API server, without waiting for it.
    pub fn run(&mut self) {
        let key = self.path("accounts.pem").display().to_string();
        let api = within(&self.namespace, self.program)
            .args([
                "kube-apiserver",
                "--etcd-servers=http://127.0.0.1:2379",
                "--bind-address=127.0.0.1",
                "--advertise-address=192.0.2.1",
                "--endpoint-reconciler-type=none",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://kubernetes.default",
            ])
            .arg(format!("--service-account-key-file={key}"))
            .arg(format!("--service-account-signing-key-file={key}"))
            .arg(format!(
                "--token-auth-file={}",
                self.path("tokens").display()
            ))
            .arg(format!(
                "--cert-dir={}",
                self.path("certificates").display()
            ))
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.path("api.log")).unwrap())
            .spawn();
        self.api = Some(api.unwrap());
    }

    /// Ends the API server as a crash does; what it stored is there.
    pub fn kill(&mut self) {
        if let Some(mut api) = self.api.take() {
            // An error says that it ended already.
            let _ = api.kill();
            let _ = api.wait();
        }
    }

    /// Waits until it answers.
    pub fn until_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.try_kubectl(&["get", "namespace", "default"]).0 {
            let log = fs::read_to_string(self.path("api.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{log}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// What kubectl prints for the admin.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let (well, said) = self.try_kubectl(arguments);
        assert!(well, "kubectl {arguments:?}: {said}");
        said
    }

    fn try_kubectl(&self, arguments: &[&str]) -> (bool, String) {
        let output = within(&self.namespace, self.program)
            .arg("kubectl")
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig("admin"))
            .env("HOME", self.folder.path())
            .output()
            .unwrap();
        let said = match output.status.success() {
            true => output.stdout,
            false => output.stderr,
        };
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.kill();
        let _ = self.etcd.kill();
        let _ = self.etcd.wait();
    }
}

fn within(namespace: &str, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{namespace}"))
        .arg(program);
    command
}
