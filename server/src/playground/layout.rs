//! Layout: where a playground's things are: ports, folders, keys. Picked once, kept in `playground.json`.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use seriatim_mtls::development;
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::ids::ClusterId;
use seriatim_proto::playground::{FILE, Playground, PlaygroundNode, PlaygroundRole, PlaygroundTls, VERSION};

use super::PlaygroundOptions;

/// Ports are picked from here: below what the kernel gives to outgoing connections, so that a killed node finds its
/// port free when it comes back.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A playground's folder and description.
#[derive(Debug)]
pub(crate) struct Layout {
    /// the data folder, absolute
    pub(crate) data: PathBuf,
    /// what `playground.json` says
    pub(crate) file: Playground,
    /// certificate chain and private key of the gateways
    pub(crate) gateway_certificate: (PathBuf, PathBuf),
    /// what stores keep free
    pub(crate) disk_reserve_bytes: u64,
    /// whose client certificates are taken
    pub(crate) client_ca: Option<PathBuf>,
}

impl Layout {
    /// Opens the folder, or makes it.
    pub(crate) fn open(options: &PlaygroundOptions) -> anyhow::Result<Layout> {
        std::fs::create_dir_all(options.data.join("logs"))
            .with_context(|| format!("make the folder {}", options.data.display()))?;
        let data = options.data.canonicalize().with_context(|| format!("open {}", options.data.display()))?;
        let keys = seriatim_gateway::dev_ca::ensure_dev_ca(&data.join("keys")).context("make the development CA")?;
        let path = data.join(FILE);
        let mut file = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Playground>(&bytes)
                .with_context(|| format!("{} is no description of a playground", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Playground {
                version: VERSION,
                cluster: None,
                pid: 0,
                groups: options.groups,
                nodes: pick(options)?,
                ca_certificate: keys.ca.display().to_string(),
                token_private_key: keys.token_key.display().to_string(),
                token_public_key: keys.token_public.display().to_string(),
                tenant: 1,
                tls: None,
            },
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        ensure!(file.version == VERSION, "use {}: it is of version {}", path.display(), file.version);
        let count = |role| file.nodes.iter().filter(|node| node.role == role).count();
        let found = [PlaygroundRole::Store, PlaygroundRole::Logic, PlaygroundRole::Gateway].map(count);
        let asked = [options.stores, options.logic, options.gateways].map(|count| count as usize);
        ensure!(
            found == asked && file.groups == options.groups,
            "use {}: it was made with {found:?} stores, logic nodes and gateways and {} groups; \
             ask for the same, or for another --data folder",
            data.display(),
            file.groups
        );
        file.pid = std::process::id();
        file.tls = if options.insecure_plaintext { None } else { Some(certificates(&data, &file.nodes)?) };
        let layout = Layout {
            data,
            file,
            gateway_certificate: (keys.gateway, keys.gateway_key),
            disk_reserve_bytes: options.disk_reserve_bytes,
            client_ca: options.client_ca.clone(),
        };
        layout.save()?;
        Ok(layout)
    }

    /// Addresses of all nodes of a role.
    pub(crate) fn addresses(&self, role: PlaygroundRole) -> Vec<String> {
        self.file.nodes.iter().filter(|node| node.role == role).map(|node| node.address.clone()).collect()
    }

    /// Notes which cluster it is. It never changes.
    pub(crate) fn save_cluster(&mut self, cluster: ClusterId) -> anyhow::Result<()> {
        let cluster = cluster.to_string();
        match &self.file.cluster {
            Some(known) if *known != cluster => bail!("go on with cluster {known}: the stores say {cluster}"),
            Some(_) => Ok(()),
            None => {
                self.file.cluster = Some(cluster);
                self.save()
            }
        }
    }

    /// Lets `raftctl` find it without being told. A hint only: no harm if it cannot be written.
    pub(crate) fn remember_as_last(&self) {
        if let Some(path) = last_pointer() {
            let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
            let _ = folder.and_then(|()| std::fs::write(&path, self.data.display().to_string()));
        }
    }

    fn save(&self) -> anyhow::Result<()> {
        let path = self.data.join(FILE);
        let scratch = self.data.join(format!("{FILE}.new"));
        let text = serde_json::to_string_pretty(&self.file).expect("a description of strings and numbers is JSON");
        std::fs::write(&scratch, text + "\n")
            .and_then(|()| std::fs::rename(&scratch, &path))
            .with_context(|| format!("write {}", path.display()))
    }
}

/// Certificates of the nodes for each other, of an operator and of an application; answers where the operator's are.
fn certificates(data: &Path, nodes: &[PlaygroundNode]) -> anyhow::Result<PlaygroundTls> {
    let folder = nodes_folder(data);
    let role = |role| match role {
        PlaygroundRole::Store => NodeRole::Store,
        PlaygroundRole::Logic => NodeRole::Logic,
        PlaygroundRole::Gateway => NodeRole::Gateway,
    };
    let mut named: Vec<_> = nodes.iter().map(|node| development::Node::local(role(node.role), &node.name)).collect();
    named.push(development::Node::local(NodeRole::Admin, OPERATOR));
    named.push(development::Node::local(NodeRole::Application, APPLICATION));
    development::ensure(&folder, &named).context("make certificates for the nodes")?;
    let files = development::files(&folder, OPERATOR);
    let text = |path: PathBuf| path.display().to_string();
    Ok(PlaygroundTls { ca: text(files.ca), certificate: text(files.certificate), key: text(files.key) })
}

/// Where the nodes' certificates are.
pub(crate) fn nodes_folder(data: &Path) -> PathBuf {
    data.join("keys/nodes")
}

/// What the operator's certificate is called.
pub(crate) const OPERATOR: &str = "operator";

/// What the certificate for programs that ask the sequence service is called.
const APPLICATION: &str = "application";

/// Where the last playground's folder is noted.
fn last_pointer() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join("seriatim/last-playground"))
}

fn pick(options: &PlaygroundOptions) -> anyhow::Result<Vec<PlaygroundNode>> {
    let mut ports = Ports::new();
    let mut nodes = Vec::new();
    for (role, name, count) in [
        (PlaygroundRole::Store, "store", options.stores),
        (PlaygroundRole::Logic, "logic", options.logic),
        (PlaygroundRole::Gateway, "gateway", options.gateways),
    ] {
        for number in 1..=count {
            nodes.push(PlaygroundNode {
                name: format!("{name}-{number}"),
                role,
                address: ports.next()?.to_string(),
                metrics: ports.next()?.to_string(),
                operators: match role {
                    PlaygroundRole::Gateway => Some(ports.next()?.to_string()),
                    PlaygroundRole::Store | PlaygroundRole::Logic => None,
                },
            });
        }
    }
    Ok(nodes)
}

/// Free ports, each once, TCP and UDP alike.
struct Ports {
    next: u16,
    left: u16,
}

impl Ports {
    fn new() -> Self {
        // Several playgrounds of one machine start at different places.
        let spread = std::process::id().wrapping_mul(97) as u16 % (PORTS.end - PORTS.start);
        Self { next: PORTS.start + spread, left: PORTS.end - PORTS.start }
    }

    fn next(&mut self) -> anyhow::Result<SocketAddrV4> {
        while self.left > 0 {
            self.left -= 1;
            let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.next);
            self.next = if self.next + 1 == PORTS.end { PORTS.start } else { self.next + 1 };
            if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
                return Ok(address);
            }
        }
        bail!("find a free loopback port between {} and {}", PORTS.start, PORTS.end)
    }
}
