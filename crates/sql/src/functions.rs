//! PostgreSQL's own functions: which need nothing, which need a grant, and which are refused.
//!
//! The rule (docs/spec/sql.md): a function of `pg_catalog` or `information_schema` needs nothing when the
//! catalogue says that it is immutable or stable, or when it stands in [`HARMLESS`]; any other one needs
//! `execute pg_catalog/NAME`. What runs SQL out of a text, or reaches past the database, is refused under
//! whatever schema it stands, because extensions install where they are told to.

use doorward_core::Verb;

use crate::error::Why;

/// Functions that stand for a statement on something that their argument names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// Sets a setting.
    SetConfig,
    /// Does something to a sequence.
    Sequence(Verb),
    /// Sends to a channel.
    Notify,
    /// Takes a lock that outlives the transaction.
    AdvisoryLock,
}

/// Whether a function of PostgreSQL's own stands for a statement.
pub(crate) fn special(name: &str) -> Option<Special> {
    Some(match name {
        "set_config" => Special::SetConfig,
        "nextval" | "setval" => Special::Sequence(Verb::Write),
        "currval" => Special::Sequence(Verb::Read),
        "pg_notify" => Special::Notify,
        "pg_advisory_lock"
        | "pg_advisory_lock_shared"
        | "pg_try_advisory_lock"
        | "pg_try_advisory_lock_shared" => Special::AdvisoryLock,
        _ => return None,
    })
}

/// Volatile functions that change nothing that is anybody's, and tell nothing that is anybody else's.
const HARMLESS: &[&str] = &[
    "array_sample",
    "array_shuffle",
    "bernoulli",
    "clock_timestamp",
    "current_query",
    "currval",
    "gen_random_uuid",
    "lastval",
    "nextval",
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_advisory_unlock_shared",
    "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared",
    "pg_blocking_pids",
    "pg_collation_actual_version",
    "pg_current_wal_flush_lsn",
    "pg_current_wal_insert_lsn",
    "pg_current_wal_lsn",
    "pg_database_collation_actual_version",
    "pg_database_size",
    "pg_indexes_size",
    "pg_is_in_recovery",
    "pg_is_wal_replay_paused",
    "pg_jit_available",
    "pg_last_wal_receive_lsn",
    "pg_last_wal_replay_lsn",
    "pg_last_xact_replay_timestamp",
    "pg_notification_queue_usage",
    "pg_notify",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_relation_size",
    "pg_safe_snapshot_blocking_pids",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "pg_stat_clear_snapshot",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared",
    "pg_xact_commit_timestamp",
    "pg_xact_status",
    "random",
    "random_normal",
    "set_config",
    "setseed",
    "setval",
    "suppress_redundant_updates_trigger",
    "system",
    "timeofday",
    // With fewer than three arguments it is refused below.
    "ts_rewrite",
    "tsvector_update_trigger",
    "tsvector_update_trigger_column",
    "txid_status",
    "uuidv4",
    "uuidv7",
];

/// Functions that are stable, and yet tell what other sessions do or what another grant guards.
const GUARDED: &[&str] = &[
    "pg_config",
    "pg_cursor",
    "pg_event_trigger_ddl_commands",
    "pg_get_publication_tables",
    "pg_get_replication_slots",
    "pg_prepared_statement",
    "pg_stat_get_activity",
    "pg_stat_get_subscription",
    "pg_stat_get_wal_receiver",
    "pg_stat_get_wal_senders",
];

/// Functions that take SQL as a text and run it.
const RUN_SQL: &[&str] = &[
    "connectby",
    "crosstab",
    "crosstab2",
    "crosstab3",
    "crosstab4",
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "database_to_xml",
    "database_to_xml_and_xmlschema",
    "database_to_xmlschema",
    "distributed_exec",
    "query_to_xml",
    "query_to_xml_and_xmlschema",
    "query_to_xmlschema",
    "run_command_on_all_nodes",
    "run_command_on_coordinator",
    "run_command_on_placements",
    "run_command_on_shards",
    "run_command_on_workers",
    "schedule_in_database",
    "schema_to_xml",
    "schema_to_xml_and_xmlschema",
    "schema_to_xmlschema",
    "table_to_xml",
    "table_to_xml_and_xmlschema",
    "table_to_xmlschema",
    "ts_stat",
    "xpath_table",
];

/// Functions that reach the server's files, or past the server.
const OUTSIDE: &[&str] = &["pg_current_logfile", "pg_rotate_logfile", "pg_stat_file"];

/// The same, by how their names begin.
const OUTSIDE_PREFIXES: &[&str] = &[
    "dblink",
    "lo_export",
    "lo_import",
    "pg_file_",
    "pg_logdir_ls",
    "pg_ls_",
    "pg_read_binary_file",
    "pg_read_file",
];

/// Why a function is refused, under whatever schema it stands.
pub(crate) fn refused(name: &str, arguments: u16) -> Option<Why> {
    // ts_rewrite(query, text) runs the text; with three arguments it is only an expression.
    if RUN_SQL.contains(&name) || (name == "ts_rewrite" && arguments < 3) {
        return Some(Why::SqlAsText);
    }
    let outside = OUTSIDE.contains(&name) || OUTSIDE_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    outside.then_some(Why::Outside)
}

/// Whether one of PostgreSQL's own functions needs nothing.
pub(crate) fn is_harmless(name: &str, volatile: bool) -> bool {
    if volatile {
        HARMLESS.contains(&name)
    } else {
        !GUARDED.contains(&name) && !name.starts_with("pg_stat_get_backend_")
    }
}

/// Relations of the catalogue that tell what other sessions do, values of tables, or secrets. They are read
/// under a grant like any other relation.
const GUARDED_RELATIONS: &[&str] = &[
    "foreign_server_options",
    "pg_authid",
    "pg_backend_memory_contexts",
    "pg_config",
    "pg_cursors",
    "pg_file_settings",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_largeobject",
    "pg_prepared_statements",
    "pg_prepared_xacts",
    "pg_replication_origin_status",
    "pg_replication_slots",
    "pg_shadow",
    "pg_shmem_allocations",
    "pg_shmem_allocations_numa",
    "pg_stat_activity",
    "pg_stat_gssapi",
    "pg_stat_progress_copy",
    "pg_stat_replication",
    "pg_stat_ssl",
    "pg_stat_subscription",
    "pg_stat_wal_receiver",
    "pg_statistic",
    "pg_statistic_ext_data",
    "pg_stats",
    "pg_stats_ext",
    "pg_stats_ext_exprs",
    "pg_user_mapping",
    "pg_user_mappings",
    "user_mapping_options",
];

/// Whether a relation of the catalogue is read under a grant of its own.
pub(crate) fn is_guarded_relation(name: &str) -> bool {
    GUARDED_RELATIONS.contains(&name)
}

/// Types whose names are used as functions to cast to them.
const TYPES: &[&str] = &[
    "json",
    "jsonb",
    "name",
    "regclass",
    "regcollation",
    "regconfig",
    "regdictionary",
    "regnamespace",
    "regoper",
    "regoperator",
    "regproc",
    "regprocedure",
    "regrole",
    "regtype",
    "text",
    "uuid",
    "varchar",
    "xml",
];

/// Whether a function of one argument that is not there is a cast to a type of PostgreSQL's own.
pub(crate) fn is_type(name: &str) -> bool {
    TYPES.contains(&name)
}
