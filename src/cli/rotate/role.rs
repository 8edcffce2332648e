//! What a Redis server is among others.

/// What a server is among others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Role {
    /// It follows another.
    pub(super) replica: bool,
    /// Its replicas' addresses, as it sees them.
    pub(super) replicas: Vec<String>,
    /// It is a node of a cluster.
    pub(super) cluster: bool,
}

impl Role {
    /// From INFO replication.
    pub(super) fn read(info: &str) -> Self {
        let mut role = Self::default();
        for line in info.lines() {
            let Some((key, value)) = line.trim().split_once(':') else {
                continue;
            };
            if key == "role" {
                role.replica = value == "slave";
            } else if key
                .strip_prefix("slave")
                .is_some_and(|n| n.parse::<u32>().is_ok())
            {
                let part = |name: &str| {
                    value
                        .split(',')
                        .find_map(|part| part.strip_prefix(name))
                        .unwrap_or("?")
                };
                role.replicas.push(format!("{}:{}", part("ip="), part("port=")));
            }
        }
        role
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_read_from_info() {
        let role = Role::read(
            "# Replication\r\nrole:master\r\nconnected_slaves:1\r\nslave0:ip=10.0.0.2,port=6379,state=online\r\nslave_expires:1\r\n",
        );
        assert_eq!(role.replicas, ["10.0.0.2:6379"]);
        assert!(!role.replica && Role::read("role:slave\r\nslave_read_only:1\r\n").replica);
    }
}
