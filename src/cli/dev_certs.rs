//! `keyward dev-certs`: a private CA and what it issues, kept in force by running it again.
//!
//! The state is the files alone. `ca.pem` is what everybody trusts: the CA that signs, and while one follows another its
//! predecessor or successor too. The CA that signs is the one in `ca.pem` whose key is `ca.key`; a successor waits in
//! `ca-next.key`. Every file is replaced by a rename, in an order in which a crash leaves nothing that running it again does not
//! mend.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use time::OffsetDateTime;

use super::certificates::{self, Issued, Known, LEAF_DAYS, Renewal, date};
use super::{Exit, talk};

#[derive(Debug, Args)]
pub(super) struct Wish {
    /// Where to; what is there and good is kept
    #[arg(long, value_name = "DIR", default_value = "certs/out")]
    out: PathBuf,
    /// Further names or addresses of the server, besides localhost and those it has
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// How long new certificates are good; they are renewed when a third of it is left
    #[arg(long, value_name = "DAYS", default_value_t = LEAF_DAYS, value_parser = clap::value_parser!(u16).range(1..=3650))]
    days: u16,
    /// Renew the certificates now; by the new CA, if --rotate-ca has made one
    #[arg(long, conflicts_with_all = ["rotate_ca", "drop_old_ca"])]
    rotate: bool,
    /// Make a new CA; ca.pem then has both. Give it to every client, then --rotate
    #[arg(long, conflicts_with = "drop_old_ca")]
    rotate_ca: bool,
    /// Trust only the CA that signs: the end of a rotation
    #[arg(long)]
    drop_old_ca: bool,
}

/// What is in the directory.
struct Place<'w> {
    dir: &'w Path,
    /// All of `ca.pem` that has not ended.
    bundle: Vec<Known>,
    now: i64,
}

/// Brings the directory into the state that is wished for.
pub(super) fn dev_certs(wish: &Wish) -> anyhow::Result<Exit> {
    let dir = &wish.out;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut place = Place {
        dir,
        bundle: Vec::new(),
        now: OffsetDateTime::now_utc().unix_timestamp(),
    };
    let trusted = place.read("ca.pem")?.unwrap_or_default();
    place.bundle = Known::all(&trusted);
    place.bundle.retain(|authority| authority.not_after > place.now);

    let waiting = place.authority("ca-next.key")?;
    if let (Some(_), true) = (&waiting, wish.rotate_ca || wish.drop_old_ca) {
        talk(
            "error: a new CA is there already and does not sign yet: when every client has ca.pem, --rotate",
        );
        return Ok(Exit::Refused);
    }
    let signer = match (place.authority("ca.key")?, waiting) {
        // From now on it signs; the key of the old one is gone with this.
        (signer, Some(next)) if wish.rotate || signer.is_none() => {
            fs::rename(dir.join("ca-next.key"), dir.join("ca.key")).context("cannot replace ca.key")?;
            talk("the new CA signs from now on; when every client has a new certificate, --drop-old-ca");
            next
        }
        (Some(signer), _) => {
            talk(&format!("kept the CA in {}", dir.join("ca.pem").display()));
            signer
        }
        (None, _) => place.make_authority("ca.key")?,
    };
    place.trust_first(&signer.certificate);
    if wish.rotate_ca {
        place.make_authority("ca-next.key")?;
        talk("ca.pem has the old CA and the new one: give it to every client and server, then --rotate");
    }
    if wish.drop_old_ca {
        place.bundle.truncate(1);
        talk("only the CA that signs is trusted from now on");
    }
    let now_trusted: String = place
        .bundle
        .iter()
        .map(|authority| authority.pem.as_str())
        .collect();
    if now_trusted != trusted {
        replace(&dir.join("ca.pem"), &now_trusted, 0o644)?;
    }
    if let Some(authority) = place
        .bundle
        .first()
        .filter(|authority| authority.ends_soon(place.now))
    {
        talk(&format!(
            "warning: the CA ends on {}, and all it has signed with it: --rotate-ca",
            date(authority.not_after)
        ));
    }
    let mut names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    for host in &wish.host {
        if !names.contains(host) {
            names.push(host.clone());
        }
    }
    place.leaf(wish, &signer, "server", "keyward", &names)?;
    place.leaf(wish, &signer, "client", "client", &[])?;
    Ok(Exit::Done)
}

impl Place<'_> {
    /// A file's text; `None` if it is not there.
    fn read(&self, name: &str) -> anyhow::Result<Option<String>> {
        let path = self.dir.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// The CA of the bundle whose key this is.
    fn authority(&self, key_file: &str) -> anyhow::Result<Option<Issued>> {
        let Some(key) = self.read(key_file)? else {
            return Ok(None);
        };
        let public = certificates::public_key(&key);
        let mut known = self.bundle.iter();
        let fits = known.find(|authority| Some(&authority.public_key) == public.as_ref());
        Ok(fits.map(|authority| Issued {
            certificate: authority.pem.clone(),
            key,
        }))
    }

    /// A new one, in the bundle as well; its key first: a key without its certificate is made anew, the reverse would be trusted
    /// for nothing.
    fn make_authority(&mut self, key_file: &str) -> anyhow::Result<Issued> {
        let authority = certificates::authority()?;
        let key_file = self.dir.join(key_file);
        replace(&key_file, &authority.key, 0o600)?;
        self.bundle.extend(Known::all(&authority.certificate));
        talk(&format!(
            "made a CA: clients trust {} (keep {} to yourself)",
            self.dir.join("ca.pem").display(),
            key_file.display()
        ));
        Ok(authority)
    }

    fn trust_first(&mut self, certificate: &str) {
        self.bundle.sort_by_key(|authority| authority.pem != certificate);
    }

    /// Keeps a certificate and its key, or makes both anew, by the CA that signs.
    fn leaf(
        &self,
        wish: &Wish,
        signer: &Issued,
        stem: &str,
        name: &str,
        hosts: &[String],
    ) -> anyhow::Result<()> {
        let (file, key_file) = (format!("{stem}.pem"), format!("{stem}.key"));
        let present = Known::all(&self.read(&file)?.unwrap_or_default());
        let present = present.first();
        let key = self
            .read(&key_file)?
            .and_then(|key| certificates::public_key(&key));
        let found = certificates::renewal(present, key.as_deref(), &self.bundle, hosts, self.now);
        let cause = found.or_else(|| wish.rotate.then_some(Renewal::Asked));
        let shown = self.dir.join(&file);
        let Some(cause) = cause else {
            let end = present.map_or(0, |known| known.not_after);
            talk(&format!("kept {}: good until {}", shown.display(), date(end)));
            return Ok(());
        };
        // Names once given stay, until the file is removed.
        let mut names = hosts.to_vec();
        let known = present.map(|known| known.names.as_slice()).unwrap_or_default();
        names.extend(
            known
                .iter()
                .filter(|name| !hosts.is_empty() && !hosts.contains(*name))
                .cloned(),
        );
        let issued = certificates::issue(signer, name, &names, wish.days)?;
        // Both are there before either is moved: who looks in between finds the old pair, or for a moment two that do not fit,
        // which Keyward does not take.
        let key = Fresh::write(&self.dir.join(&key_file), &issued.key, 0o600)?;
        let certificate = Fresh::write(&shown, &issued.certificate, 0o644)?;
        key.place()?;
        certificate.place()?;
        let end = Known::all(&issued.certificate)
            .first()
            .map_or(0, |known| known.not_after);
        let whose = if names.is_empty() {
            String::new()
        } else {
            format!(" for {}", names.join(", "))
        };
        talk(&format!(
            "made {} and {key_file}{whose}, good until {} ({cause})",
            shown.display(),
            date(end)
        ));
        Ok(())
    }
}

/// A file beside the one that it is to replace.
struct Fresh {
    fresh: PathBuf,
    path: PathBuf,
}

impl Fresh {
    /// It was never open to more than `mode` says.
    fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let fresh = path.with_file_name(name);
        let write = || {
            match fs::remove_file(&fresh) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&fresh)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().with_context(|| format!("cannot write {}", fresh.display()))?;
        Ok(Self {
            fresh,
            path: path.to_owned(),
        })
    }

    fn place(self) -> anyhow::Result<()> {
        fs::rename(&self.fresh, &self.path).with_context(|| format!("cannot replace {}", self.path.display()))
    }
}

fn replace(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    Fresh::write(path, text, mode)?.place()
}
