//! Recognizes database servers by the name of their image, so that a copy of their files is not mistaken for a backup
//! of the database. Only the last part of the name counts, which mirrors and vendors keep.

use super::image::repository;

/// A database server whose files are useless if they are read while it writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Database {
    pub name: &'static str,
    /// The program that dumps the database to stdout, if there is one.
    pub dump: Option<&'static str>,
}

const POSTGRESQL: Database = Database { name: "PostgreSQL", dump: Some("pg_dump") };
const MYSQL: Database = Database { name: "MySQL", dump: Some("mysqldump") };
const MARIADB: Database = Database { name: "MariaDB", dump: Some("mariadb-dump") };
const MONGODB: Database = Database { name: "MongoDB", dump: Some("mongodump --archive") };
const REDIS: Database = Database { name: "Redis", dump: Some("redis-cli --rdb -") };
const VALKEY: Database = Database { name: "Valkey", dump: Some("valkey-cli --rdb -") };
const ETCD: Database = Database { name: "etcd", dump: None };
const CLICKHOUSE: Database = Database { name: "ClickHouse", dump: None };
const ELASTICSEARCH: Database = Database { name: "Elasticsearch", dump: None };
const OPENSEARCH: Database = Database { name: "OpenSearch", dump: None };

/// Only whole names match, because `postgres-exporter`, `mongo-express` and `redis-sentinel` are not database servers.
const SERVERS: &[(&str, Database)] = &[
    ("postgres", POSTGRESQL),
    ("postgresql", POSTGRESQL),
    ("postgis", POSTGRESQL),
    ("pgvector", POSTGRESQL),
    ("timescaledb", POSTGRESQL),
    ("timescaledb-ha", POSTGRESQL),
    ("spilo", POSTGRESQL),
    ("mysql", MYSQL),
    ("mysql-server", MYSQL),
    ("mysql-community-server", MYSQL),
    ("percona", MYSQL),
    ("percona-server", MYSQL),
    ("mariadb", MARIADB),
    ("mariadb-galera", MARIADB),
    ("mongo", MONGODB),
    ("mongodb", MONGODB),
    ("mongodb-community-server", MONGODB),
    ("mongodb-enterprise-server", MONGODB),
    ("percona-server-mongodb", MONGODB),
    ("redis", REDIS),
    ("redis-cluster", REDIS),
    ("redis-stack", REDIS),
    ("redis-stack-server", REDIS),
    ("keydb", REDIS),
    ("valkey", VALKEY),
    ("valkey-cluster", VALKEY),
    ("etcd", ETCD),
    ("clickhouse", CLICKHOUSE),
    ("clickhouse-server", CLICKHOUSE),
    ("elasticsearch", ELASTICSEARCH),
    ("opensearch", OPENSEARCH),
];

/// The database server of an image; `None` if the image is not clearly one.
pub fn database_of(image: &str) -> Option<Database> {
    let repository = repository(image);
    let name = repository.rsplit_once('/').map_or(repository, |(_, name)| name).to_ascii_lowercase();
    let is_version = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    // Names of Red Hat's images end with a version: postgresql-16, mariadb-105.
    let without_version = name.rsplit_once('-').filter(|(_, version)| is_version(version)).map(|(name, _)| name);
    let is_match = |(known, _): &&(&str, Database)| *known == name || Some(*known) == without_version;
    SERVERS.iter().find(is_match).map(|(_, database)| *database)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_servers_are_known_by_the_last_part_of_their_images_names() {
        for (image, expected) in [
            ("postgres", "PostgreSQL"),
            ("docker.io/library/postgres:16-alpine@sha256:00", "PostgreSQL"),
            ("registry:5000/mirror/bitnami/postgresql:16", "PostgreSQL"),
            ("ghcr.io/cloudnative-pg/postgresql:16.4", "PostgreSQL"),
            ("registry.redhat.io/rhel9/postgresql-16", "PostgreSQL"),
            ("timescale/timescaledb-ha:pg16", "PostgreSQL"),
            ("mysql:8", "MySQL"),
            ("mariadb:11", "MariaDB"),
            ("rhel9/mariadb-105:1", "MariaDB"),
            ("mongo:7", "MongoDB"),
            ("mongodb/mongodb-community-server:7.0-ubi8", "MongoDB"),
            ("redis:7-alpine", "Redis"),
            ("valkey/valkey:8", "Valkey"),
            ("registry.k8s.io/etcd:3.5.16-0", "etcd"),
            ("clickhouse/clickhouse-server:24.8", "ClickHouse"),
            ("docker.elastic.co/elasticsearch/elasticsearch:8.15.0", "Elasticsearch"),
            ("opensearchproject/opensearch:2", "OpenSearch"),
        ] {
            assert_eq!(database_of(image).map(|database| database.name), Some(expected), "{image}");
        }
    }

    #[test]
    fn images_that_are_only_related_to_a_database_are_no_servers() {
        for image in [
            "",
            "shop",
            "prometheuscommunity/postgres-exporter:v0.15",
            "bitnami/redis-sentinel",
            "mongo-express",
            "mysql/mysql-router",
            "edoburu/pgbouncer",
            "postgres/operator",
            "my-postgres",
            "postgres-backup-s3",
            "kibana",
        ] {
            assert_eq!(database_of(image), None, "{image}");
        }
    }
}
