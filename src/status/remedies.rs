//! What to do about a reason word of the metrics; the runbook has more. A word without an entry has the general one.

/// A refused login.
pub(super) fn login(reason: &str) -> &'static str {
    match reason {
        "no_credentials" => {
            "Give the client its password (AUTH, or in its URL); let health checks use keyward healthcheck or /readyz."
        }
        "bad_password" => {
            "Find the client: the audit events (auth_failed) have its address. To let old and new password work meanwhile, put the old one on the second line of the user's password_file."
        }
        "unknown_user" => {
            "Add a [[user]] of that name, or put the right name into the client's URL; a client that sends no name is the user default."
        }
        "user_disabled" => {
            "The user is off in its rules; switch it on, or take its credential away from the client."
        }
        "source_not_allowed" => "Add the client's network to the user's sources, if it belongs there.",
        "over_budget" => {
            "More wrong passwords a second come in than are looked at: see who sends them in the audit events, and stop them in the firewall."
        }
        "locked_out" => {
            "keyward lockouts lists who is locked out, keyward unlock ADDRESS lets them in again."
        }
        "timeout" => "Connected and never logged in: a port scan, or a TCP health check; let it ask /readyz.",
        "client_cert_missing" => "Give the client a certificate, or set client_certificates = \"optional\".",
        "client_cert_untrusted" => {
            "Issue the client's certificate by a CA in client_ca_file, or add its CA there."
        }
        "client_cert_expired" => "Renew the client's certificate.",
        "client_cert_revoked" => {
            "The certificate is on the revocation list; issue a new one if the client is still yours."
        }
        "client_cert_not_mapped" | "client_cert_mismatch" => {
            "Name the certificate at the user it belongs to: certificate_uris, certificate_dns_names or certificate_common_name."
        }
        _ => "The audit events (auth_failed) have the address of the client.",
    }
}

/// A connection to an upstream that failed.
pub(super) fn connect(reason: &str) -> &'static str {
    match reason {
        "dns" => "Check the host in the upstream's url, and the resolver of this machine.",
        "refused" => "Start Redis, or correct host and port in the upstream's url.",
        "timeout" => "Check firewalls and network policies between here and Redis.",
        "auth_timeout" => {
            "Redis takes connections and does not answer: it hangs, or one command keeps it busy (SLOWLOG)."
        }
        "tls_expired" => "Renew the certificate of Redis.",
        "tls_wrong_name" => {
            "The certificate of Redis is for another name: correct the url, or set server_name."
        }
        "tls_untrusted" => "Set ca_file of the upstream to the CA that issued the certificate of Redis.",
        "tls_not_tls" => "That port does not speak TLS: use redis:// or Redis's tls-port.",
        "tls_client_certificate" => {
            "Redis wants another client certificate: certificate_file and key_file of the upstream."
        }
        "auth_refused" => {
            "Put the password that Redis takes into the upstream's password_file; it is read again when it changes."
        }
        "no_password_set" => "Set requirepass or an ACL in Redis: everybody who reaches it is let in.",
        "max_clients" => "Raise maxclients of Redis, or lower max_connections of the upstream.",
        "protected_mode" => "Set a password in Redis: without one it takes connections of its own host only.",
        "not_ready" => "Wait until Redis has loaded its data or has its master again.",
        "database" => "Use a database that Redis has (databases in redis.conf).",
        "not_redis" => "Something else than Redis answers there: correct host and port.",
        "closed" => "Redis closes at once: it has reached its maxclients, or something stands between.",
        _ => "The log line redis_connection_failed has the cause.",
    }
}

/// A credential of ours that Redis refused.
pub(super) fn credential(reason: &str) -> &'static str {
    match reason {
        "wrongpass" => {
            "Put the password that Redis takes into that file, the new one on the first line and the old one on the second; it is read again within seconds, without a restart."
        }
        "noperm" => "Give Keyward's Redis user what keyward acl upstream prints.",
        "no_password_set" => "Set requirepass or an ACL in Redis: everybody who reaches it is let in.",
        "noauth" => "Redis wants a password: set password_file of the upstream.",
        _ => "The log line redis_connection_failed has the cause.",
    }
}

/// A connection of a client that was refused.
pub(super) fn rejection(reason: &str) -> &'static str {
    match reason {
        "global_limit" => {
            "Raise max_connections of [server], with two open files for each, or find who opens so many."
        }
        "listener_limit" => "Raise max_connections of the listener, or find who opens so many.",
        "source_limit" => {
            "One address has max_connections_per_ip connections: a leak, or many clients behind one NAT (then set proxy_protocol_from)."
        }
        "user_limit" => "Raise max_connections of the user, or find the client that leaks connections.",
        "unauthenticated_limit" => {
            "Many connections do not log in: a flood, or clients that are slow; see max_unauthenticated."
        }
        "proxy_header" => "Set proxy_protocol_from to the networks of your load balancers, and nothing else.",
        _ => "The audit events (connection_refused) have the address of the client.",
    }
}

/// A TLS handshake that failed.
pub(super) fn handshake(reason: &str) -> &'static str {
    match reason {
        "plaintext" => "Use rediss:// instead of redis:// in the client's URL.",
        "client_rejected_certificate" => {
            "Give the client the CA of this certificate, and connect by a name that it is for."
        }
        "version" | "cipher" => "Update the client: it needs TLS 1.2 or later.",
        "timeout" => "The client is slow, or a scanner; nothing to do if nobody complains.",
        _ => "The log has the detail at level debug (tls_handshake_failed).",
    }
}
