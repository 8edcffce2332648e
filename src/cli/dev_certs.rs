//! `keyward dev-certs`.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::certificates::{self, Issued};
use super::gen_password::write_secret;
use super::{Exit, talk};

/// Makes certificates in `out`; a CA that is there already is used again, so that clients need not be told anew.
pub(super) fn dev_certs(out: &Path, hosts: &[String]) -> anyhow::Result<Exit> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let (ca_file, ca_key_file) = (out.join("ca.pem"), out.join("ca.key"));
    let authority = if ca_file.exists() && ca_key_file.exists() {
        talk(&format!("kept the CA in {}", ca_file.display()));
        Issued {
            certificate: fs::read_to_string(&ca_file)?,
            key: fs::read_to_string(&ca_key_file)?,
        }
    } else {
        let authority = certificates::authority()?;
        write(&ca_file, &ca_key_file, &authority)?;
        talk(&format!(
            "made a CA: clients trust {} (keep {} to yourself)",
            ca_file.display(),
            ca_key_file.display()
        ));
        authority
    };
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    names.extend_from_slice(hosts);
    let (server, server_key) = (out.join("server.pem"), out.join("server.key"));
    write(
        &server,
        &server_key,
        &certificates::issue(&authority, "keyward", &names)?,
    )?;
    talk(&format!(
        "made a server certificate for {}: {}, {}",
        names.join(", "),
        server.display(),
        server_key.display()
    ));
    let (client, client_key) = (out.join("client.pem"), out.join("client.key"));
    write(
        &client,
        &client_key,
        &certificates::issue(&authority, "client", &[])?,
    )?;
    talk(&format!(
        "made a client certificate: {}, {}",
        client.display(),
        client_key.display()
    ));
    talk(&format!(
        "the certificates are good until {}; run this again to renew them",
        certificates::leaf_end()
    ));
    Ok(Exit::Done)
}

fn write(certificate_file: &Path, key_file: &Path, issued: &Issued) -> anyhow::Result<()> {
    write_secret(key_file, issued.key.trim_end().as_bytes(), true)
        .with_context(|| format!("cannot write {}", key_file.display()))?;
    fs::write(certificate_file, &issued.certificate)
        .with_context(|| format!("cannot write {}", certificate_file.display()))
}
