//! What a connection shows of its client without a word: a verified certificate, or the user of the process.
//!
//! Names are compared whole and byte for byte, and exactly one user must match. Verification of the certificate
//! itself is done before anything comes here.

use std::collections::{BTreeSet, HashMap};

use crate::config::CertificateName;

use super::{AuthFailure, Proof};

/// What a connection shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// Nothing that says who it is.
    Nothing,
    /// A verified certificate with these names.
    Certificate(Vec<CertificateName>),
    /// A process of this user of our host.
    UnixUser(u32),
}

/// What may show that a client is a certain user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Factors {
    /// A certificate with one of these names.
    pub certificates: Vec<CertificateName>,
    /// The certificate and a password: neither is enough alone.
    pub certificate_required: bool,
    /// A process of one of these users of our host.
    pub unix_users: Vec<u32>,
}

/// Who belongs to what.
#[derive(Debug, Default)]
pub(super) struct Mappings {
    certificates: HashMap<CertificateName, String>,
    unix_users: HashMap<u32, String>,
    /// Users that need a certificate and a password.
    both: BTreeSet<String>,
}

impl Mappings {
    /// The configuration has made sure that nothing belongs to two users; were it otherwise, it would belong to nobody.
    pub(super) fn new(factors: Vec<(String, Factors)>) -> Self {
        let mut mappings = Self::default();
        let mut doubtful = (BTreeSet::new(), BTreeSet::new());
        for (user, factors) in factors {
            if factors.certificate_required {
                mappings.both.insert(user.clone());
            }
            for name in factors.certificates {
                let former = mappings.certificates.insert(name.clone(), user.clone());
                if former.is_some_and(|former| former != user) {
                    doubtful.0.insert(format!("{name:?}"));
                }
            }
            for id in factors.unix_users {
                let former = mappings.unix_users.insert(id, user.clone());
                if former.is_some_and(|former| former != user) {
                    doubtful.1.insert(id);
                }
            }
        }
        // The name of nobody: no user of the configuration can be called so.
        for (name, user) in &mut mappings.certificates {
            if doubtful.0.contains(&format!("{name:?}")) {
                user.clear();
            }
        }
        mappings.unix_users.retain(|id, _| !doubtful.1.contains(id));
        mappings
    }

    pub(super) fn has_certificates(&self) -> bool {
        !self.certificates.is_empty()
    }

    pub(super) fn needs_both(&self, user: &str) -> bool {
        self.both.contains(user)
    }

    /// Whom this shows the client to be. Certificates say nothing where no user has one: then they only let clients in.
    /// A process of a user without a mapping is as good as any other client.
    pub(super) fn user_of(&self, evidence: &Evidence) -> Result<Option<(&str, Proof)>, AuthFailure> {
        match evidence {
            Evidence::Certificate(names) if self.has_certificates() => {
                let mut users = names
                    .iter()
                    .filter_map(|name| self.certificates.get(name))
                    .map(String::as_str);
                let user = users.next().ok_or(AuthFailure::ClientCertNotMapped)?;
                if users.any(|other| other != user) {
                    return Err(AuthFailure::ClientCertNotMapped);
                }
                Ok(Some((user, Proof::Certificate)))
            }
            Evidence::UnixUser(id) => {
                let user = self.unix_users.get(id);
                Ok(user.map(|user| (user.as_str(), Proof::UnixUser)))
            }
            Evidence::Nothing | Evidence::Certificate(_) => Ok(None),
        }
    }

    /// Whether a right password is enough together with this.
    pub(super) fn lets_in_with_password(&self, user: &str, evidence: &Evidence) -> bool {
        !self.needs_both(user) || matches!(self.user_of(evidence), Ok(Some((shown, _))) if shown == user)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Users;
    use super::*;
    use crate::acl::rule;

    fn uri(text: &str) -> CertificateName {
        CertificateName::Uri(text.to_owned())
    }

    fn dns(text: &str) -> CertificateName {
        CertificateName::DnsName(text.to_owned())
    }

    fn common_name(text: &str) -> CertificateName {
        CertificateName::CommonName(text.to_owned())
    }

    fn certificate(names: &[CertificateName]) -> Evidence {
        Evidence::Certificate(names.to_vec())
    }

    fn with(certificates: &[CertificateName], required: bool, unix_users: &[u32]) -> Factors {
        Factors {
            certificates: certificates.to_vec(),
            certificate_required: required,
            unix_users: unix_users.to_vec(),
        }
    }

    fn users(rules: &str, factors: &[(&str, Factors)]) -> Users {
        let users = rule::parse_file(rules).unwrap().into_iter().map(|(_, user)| user);
        let factors = factors
            .iter()
            .map(|(name, factors)| ((*name).to_owned(), factors.clone()));
        Users::with_factors(users.collect(), factors.collect())
    }

    const RULES: &str = "user web on ~* &* +@all\n\
                         user both on >one ~* &* +@all\n\
                         user plain on >two ~* &* +@all\n\
                         user off off ~* &* +@all\n";

    fn standard() -> Users {
        users(
            RULES,
            &[
                (
                    "web",
                    with(&[uri("spiffe://prod/web"), dns("web.test")], false, &[7]),
                ),
                ("both", with(&[common_name("both")], true, &[])),
                ("off", with(&[dns("off.test")], false, &[8])),
            ],
        )
    }

    fn name(users: &Users, evidence: &Evidence) -> Result<Option<String>, &'static str> {
        users
            .identify(evidence)
            .map(|identity| identity.map(|identity| identity.user.name.clone()))
            .map_err(|failure| failure.label())
    }

    #[test]
    fn exactly_one_user_must_match_whole_and_byte_for_byte() {
        let users = standard();
        let web = Ok(Some("web".to_owned()));
        assert_eq!(name(&users, &certificate(&[uri("spiffe://prod/web")])), web);
        assert_eq!(name(&users, &certificate(&[dns("other"), dns("web.test")])), web);
        let both_names = certificate(&[uri("spiffe://prod/web"), dns("web.test")]);
        assert_eq!(
            name(&users, &both_names),
            web,
            "two names of one user are no doubt"
        );
        for names in [
            vec![],
            vec![dns("WEB.test")],
            vec![dns("web.test.")],
            vec![dns("web.tes")],
            vec![dns("*.test")],
            vec![dns("web.test\0")],
            vec![uri("spiffe://prod/web/")],
            // The same text as another kind of name.
            vec![common_name("web.test")],
            vec![dns("spiffe://prod/web")],
            // Two users.
            vec![dns("web.test"), common_name("both")],
        ] {
            assert_eq!(
                name(&users, &certificate(&names)),
                Err("client_cert_not_mapped"),
                "{names:?}"
            );
        }
        assert_eq!(
            name(&users, &certificate(&[dns("off.test")])),
            Err("user_disabled")
        );
        assert_eq!(name(&users, &Evidence::Nothing), Ok(None));
    }

    #[test]
    fn certificates_say_nothing_where_no_user_has_one() {
        let users = users(RULES, &[("web", with(&[], false, &[7]))]);
        assert!(!users.maps_certificates());
        assert_eq!(name(&users, &certificate(&[dns("web.test")])), Ok(None));
    }

    #[test]
    fn a_user_of_the_host_is_known_and_any_other_has_to_log_in() {
        let users = standard();
        assert_eq!(name(&users, &Evidence::UnixUser(7)), Ok(Some("web".to_owned())));
        assert_eq!(name(&users, &Evidence::UnixUser(0)), Ok(None));
        assert_eq!(name(&users, &Evidence::UnixUser(8)), Err("user_disabled"));
    }

    #[test]
    fn who_needs_both_gets_in_with_neither_alone() {
        let users = standard();
        let own = certificate(&[common_name("both")]);
        assert_eq!(name(&users, &own), Ok(None), "the certificate alone");
        let log_in = |user: &str, password: &[u8], evidence: &Evidence| {
            users
                .authenticate_with(user.as_bytes(), password, evidence)
                .map(|identity| identity.proof)
                .map_err(|failure| failure.label())
        };
        assert_eq!(log_in("both", b"one", &own), Ok(Proof::Password(0)));
        assert_eq!(log_in("both", b"two", &own), Err("bad_password"));
        for other in [
            Evidence::Nothing,
            Evidence::UnixUser(7),
            certificate(&[dns("web.test")]),
            certificate(&[]),
        ] {
            assert_eq!(
                log_in("both", b"one", &other),
                Err("client_cert_mismatch"),
                "{other:?}"
            );
        }
        // Others are what they are by their passwords alone, and who has none is not reached by AUTH.
        assert_eq!(log_in("plain", b"two", &own), Ok(Proof::Password(0)));
        for password in [b"" as &[u8], b"one", b"web"] {
            assert_eq!(
                log_in("web", password, &certificate(&[dns("web.test")])),
                Err("bad_password")
            );
        }
    }

    #[test]
    fn a_reload_that_takes_the_mapping_away_ends_the_identity() {
        let before = standard();
        let (shown, by_uid) = (certificate(&[dns("web.test")]), Evidence::UnixUser(7));
        let web = before.identify(&shown).unwrap().unwrap();
        let local = before.identify(&by_uid).unwrap().unwrap();
        let own = certificate(&[common_name("both")]);
        let both = before.authenticate_with(b"both", b"one", &own).unwrap();
        let plain = before.authenticate_with(b"plain", b"two", &shown).unwrap();
        assert!(
            before.refresh_with(&web, &shown).is_some() && before.refresh_with(&local, &by_uid).is_some()
        );
        assert!(before.refresh_with(&both, &own).is_some() && before.refresh_with(&plain, &shown).is_some());

        let moved = users(RULES, &[("plain", with(&[dns("web.test")], false, &[7]))]);
        assert!(moved.refresh_with(&web, &shown).is_none(), "another's now");
        assert!(moved.refresh_with(&local, &by_uid).is_none());
        assert!(
            moved.refresh_with(&both, &own).is_none(),
            "its certificate is nobody's"
        );
        assert!(moved.refresh_with(&plain, &shown).is_some());
        let gone = users(RULES, &[]);
        assert!(gone.refresh_with(&web, &shown).is_none() && gone.refresh_with(&local, &by_uid).is_none());
        let stricter = users(RULES, &[("web", with(&[dns("web.test")], true, &[]))]);
        assert!(
            stricter.refresh_with(&web, &shown).is_none(),
            "a password is needed as well now"
        );
        let stricter = users(RULES, &[("plain", with(&[dns("plain.test")], true, &[]))]);
        assert!(stricter.refresh_with(&plain, &Evidence::Nothing).is_none());
    }

    #[test]
    fn what_would_be_two_users_is_none() {
        let users = users(
            RULES,
            &[
                ("web", with(&[dns("x.test")], false, &[7])),
                ("plain", with(&[dns("x.test")], false, &[7])),
            ],
        );
        assert_eq!(
            name(&users, &certificate(&[dns("x.test")])),
            Err("client_cert_not_mapped")
        );
        assert_eq!(name(&users, &Evidence::UnixUser(7)), Ok(None));
    }
}
