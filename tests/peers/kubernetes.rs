//! A real Kubernetes API server, built from its Go modules by scripts/kubernetes, with an etcd of its own.

use std::{
    env, fs,
    io::Write,
    net::{SocketAddr, TcpListener},
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

/// An API server on loopback; ended when dropped.
pub struct ApiServer {
    program: &'static Path,
    /// The network namespace it is in, if not in that of the test.
    namespace: Option<String>,
    ports: Ports,
    folder: tempfile::TempDir,
    etcd: Child,
    api: Option<Child>,
}

impl ApiServer {
    /// Starts one in the network namespace of that name, where all ports are free.
    #[allow(dead_code)]
    pub fn start(program: &'static Path, namespace: &str) -> Self {
        Self::start_with(program, Some(namespace.into()), FIXED)
    }

    /// Starts one beside others.
    #[allow(dead_code)]
    pub fn start_here(program: &'static Path) -> Self {
        Self::start_with(program, None, Ports::free())
    }

    fn start_with(program: &'static Path, namespace: Option<String>, ports: Ports) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("etcd").display().to_string();
        let (clients, peers) = (local(ports.etcd), local(ports.etcd_peers));
        let log = folder.path().join("etcd.log");
        let mut server = Self {
            program,
            etcd: within(namespace.as_deref(), program)
                .args([
                    "etcd",
                    "--data-dir",
                    &data,
                    "--unsafe-no-fsync",
                    "--log-level=error",
                ])
                .arg(format!("--listen-client-urls=http://{clients}"))
                .arg(format!("--advertise-client-urls=http://{clients}"))
                .arg(format!("--listen-peer-urls=http://{peers}"))
                .arg(format!("--initial-advertise-peer-urls=http://{peers}"))
                .arg(format!("--initial-cluster=default=http://{peers}"))
                .stdout(Stdio::null())
                .stderr(fs::File::create(log).unwrap())
                .spawn()
                .unwrap(),
            namespace,
            ports,
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
                 {{server: \"https://{}\", certificate-authority: {}}}\nusers:\n- name: \
                 {user}\n  user: {{token: {token}}}\ncontexts:\n- name: one\n  context: {{cluster: one, \
                 user: {user}}}\n",
                local(server.ports.api),
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

    /// From the next start on it listens there, where nobody but kubectl looks for it; returns where it did.
    #[allow(dead_code)]
    pub fn move_to(&mut self, port: u16) -> u16 {
        std::mem::replace(&mut self.ports.api, port)
    }

    /// A port that nobody has at this moment.
    #[allow(dead_code)]
    pub fn free_port() -> u16 {
        Ports::free().api
    }

    /// Starts the API server, without waiting for it.
    pub fn run(&mut self) {
        let key = self.path("accounts.pem").display().to_string();
        let api = within(self.namespace.as_deref(), self.program)
            .args([
                "kube-apiserver",
                "--bind-address=127.0.0.1",
                "--advertise-address=192.0.2.1",
                "--endpoint-reconciler-type=none",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://kubernetes.default",
            ])
            .arg(format!("--etcd-servers=http://{}", local(self.ports.etcd)))
            .arg(format!("--secure-port={}", self.ports.api))
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
        let output = within(self.namespace.as_deref(), self.program)
            .arg("kubectl")
            .arg(format!("--server=https://{}", local(self.ports.api)))
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

struct Ports {
    api: u16,
    etcd: u16,
    etcd_peers: u16,
}

const FIXED: Ports = Ports {
    api: 6443,
    etcd: 2379,
    etcd_peers: 2380,
};

impl Ports {
    /// Of which nobody else has any at this moment.
    fn free() -> Self {
        let listeners: Vec<_> = (0..3)
            .map(|_| TcpListener::bind(local(0)).unwrap())
            .collect();
        let ports: Vec<u16> = listeners
            .iter()
            .map(|l| l.local_addr().unwrap().port())
            .collect();
        Self {
            api: ports[0],
            etcd: ports[1],
            etcd_peers: ports[2],
        }
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn within(namespace: Option<&str>, program: &Path) -> Command {
    let Some(namespace) = namespace else {
        return Command::new(program);
    };
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{namespace}"))
        .arg(program);
    command
}
