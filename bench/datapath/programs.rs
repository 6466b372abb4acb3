//! Programs of others, as Debian has them: nginx as the backends' server, and balancers in user space on the node (haproxy in
//! TCP mode, nginx's stream).

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::byhand;
use crate::lab::{self, Place};
use crate::traffic::TARGET;
use crate::world::{BACKENDS, World};

/// Ends with its owner.
pub struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where `bench/fetch` unpacked a package.
fn unpacked(name: &str) -> PathBuf {
    let variable = format!("MESHD_BENCH_{}", name.to_uppercase());
    std::env::var_os(&variable).unwrap_or_else(|| panic!("{variable} is not set: start by bench/run")).into()
}

/// An HTTP server in a backend's namespace: it says its name and whom it sees, and has a file of 1 MiB.
pub fn server(place: &Place, name: &str, directory: &Path) -> Program {
    let text = format!(
        "daemon off;\nworker_processes 1;\npid /dev/null;\nerror_log stderr;\nuser root;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; default_type text/plain;\n\
         client_body_temp_path {0}; proxy_temp_path {0}; fastcgi_temp_path {0}; uwsgi_temp_path {0}; scgi_temp_path {0};\n\
         server {{ listen {TARGET} backlog=512;\n\
         location = /1m {{ root {0}; }}\n\
         location / {{ return 200 \"{name} $remote_addr\\n\"; }} }} }}\n",
        directory.display()
    );
    nginx_with(place, &directory.join(name), &text)
}

fn nginx_with(place: &Place, config: &Path, text: &str) -> Program {
    run(place, "nginx", "usr/sbin/nginx", config, text, &["-e", "stderr", "-c"])
}

pub fn haproxy(world: &World) -> Program {
    let servers: String =
        BACKENDS.iter().map(|(name, address)| format!("  server {name} {address}:{TARGET}\n")).collect();
    let text = format!(
        "global\n  maxconn 4096\n  nbthread 1\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
         listen kafka\n  bind :{}\n  balance roundrobin\n{servers}",
        world.published()
    );
    byhand::direct(world);
    let program = run(&world.nodes[0], "haproxy", "usr/sbin/haproxy", &world.file("haproxy", 0), &text, &["-db", "-f"]);
    wait(world);
    program
}

pub fn nginx(world: &World) -> Program {
    let servers: String = BACKENDS.iter().map(|(_, address)| format!("server {address}:{TARGET}; ")).collect();
    let module = unpacked("nginx").join("usr/lib/nginx/modules/ngx_stream_module.so");
    let text = format!(
        "load_module {};\ndaemon off;\nworker_processes 1;\npid /dev/null;\nerror_log stderr;\nevents {{ worker_connections 4096; }}\n\
         stream {{ upstream kafka {{ {servers} }} server {{ listen {}; proxy_pass kafka; tcp_nodelay on; }} }}\n",
        module.display(),
        world.published()
    );
    byhand::direct(world);
    let program = nginx_with(&world.nodes[0], &world.file("nginx", 0), &text);
    wait(world);
    program
}

fn wait(world: &World) {
    let target = world.target();
    lab::eventually("it listens", || world.client().within(|| TcpStream::connect(target).is_ok()));
}

fn run(place: &Place, name: &str, program: &str, config: &Path, text: &str, arguments: &[&str]) -> Program {
    let unpacked = unpacked(name);
    fs::write(config, text).expect("a configuration");
    let mut command = Command::new(unpacked.join(program));
    command.args(arguments).arg(config).env("LD_LIBRARY_PATH", libraries(&unpacked));
    let child = place.within(|| command.stdin(Stdio::null()).stdout(Stdio::null()).spawn());
    Program(child.unwrap_or_else(|error| panic!("{program}: {error}")))
}

fn libraries(unpacked: &Path) -> String {
    let of = |directory: &str| unpacked.join(directory).join("x86_64-linux-gnu").display().to_string();
    [of("usr/lib"), of("lib")].join(":")
}
