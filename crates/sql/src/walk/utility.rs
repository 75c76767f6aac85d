//! All statements but queries: transactions, settings, cursors, COPY, and what changes structure or rights.

use doorward_core::Verb;
use pg_query::protobuf as pb;
use pg_query::protobuf::a_const::Val;
use pg_query::protobuf::node::Node as N;

use super::expression::w_settings;
use super::{MAKE, MANAGE, MANAGE_IF_THERE, READ, Use, Visit, Walk, listed_name, object, query, text_of};
use crate::error::Why;
use crate::settings;
use crate::statement::{Direction, Discard, Kind, Lookup, Setting, Transaction, Want};

/// Statements that change the structure or rights of the relations that they name.
macro_rules! structure {
    ($($type:ident $tag:literal $relation:ident { $($field:ident),* })*) => {
        $(impl Visit for pb::$type {
            fn walk(&self, w: &mut Walk) {
                w.seen();
                w.is(Kind::Ddl, $tag);
                w.changes = true;
                w.with($relation, |_w| { $(self.$field.walk(_w);)* });
            }
        })*
    };
}

structure! {
    IndexStmt "CREATE INDEX" MANAGE { relation, index_params, index_including_params, options, where_clause, exclude_op_names }
    CreateSeqStmt "CREATE SEQUENCE" MAKE { sequence, options }
    CreatePolicyStmt "CREATE POLICY" MANAGE { table, roles, qual, with_check }
    AlterPolicyStmt "ALTER POLICY" MANAGE { table, roles, qual, with_check }
    RuleStmt "CREATE RULE" MANAGE { relation, where_clause, actions }
    CompositeTypeStmt "CREATE TYPE" MAKE { typevar, coldeflist }
    ClusterStmt "CLUSTER" MANAGE { relation, params }
    RefreshMatViewStmt "REFRESH MATERIALIZED VIEW" MANAGE { relation }
    CreateForeignTableStmt "CREATE FOREIGN TABLE" MAKE { base_stmt, options }
}

/// Statements that are refused, whoever asks. They are not walked.
macro_rules! refused {
    ($($type:ident $tag:literal $why:ident $what:literal)*) => {
        $(impl Visit for pb::$type {
            fn walk(&self, w: &mut Walk) {
                w.is(Kind::Ddl, $tag);
                w.changes = true;
                w.refuse(Why::$why, $what);
            }
        })*
    };
}

refused! {
    GrantRoleStmt "GRANT ROLE" Role "membership in roles is managed where the roles come from"
    AlterDefaultPrivilegesStmt "ALTER DEFAULT PRIVILEGES" Role "default rights are the roles', and are managed where these come from"
    CreateRoleStmt "CREATE ROLE" Role "roles are managed where they come from"
    AlterRoleStmt "ALTER ROLE" Role "roles are managed where they come from"
    AlterRoleSetStmt "ALTER ROLE" Role "roles are managed where they come from"
    DropRoleStmt "DROP ROLE" Role "roles are managed where they come from"
    DropOwnedStmt "DROP OWNED" Role "what a role owns as a whole is managed where the role comes from"
    ReassignOwnedStmt "REASSIGN OWNED" Role "what a role owns as a whole is managed where the role comes from"
    CreateTableSpaceStmt "CREATE TABLESPACE" Server "tablespaces belong to the server as a whole"
    DropTableSpaceStmt "DROP TABLESPACE" Server "tablespaces belong to the server as a whole"
    AlterTableSpaceOptionsStmt "ALTER TABLESPACE" Server "tablespaces belong to the server as a whole"
    AlterTableMoveAllStmt "ALTER TABLE" Server "tablespaces belong to the server as a whole"
    CreateExtensionStmt "CREATE EXTENSION" Server "extensions bring code of their own"
    AlterExtensionStmt "ALTER EXTENSION" Server "extensions bring code of their own"
    AlterExtensionContentsStmt "ALTER EXTENSION" Server "extensions bring code of their own"
    CreateFdwStmt "CREATE FOREIGN DATA WRAPPER" Outside "foreign data wrappers reach other servers"
    AlterFdwStmt "ALTER FOREIGN DATA WRAPPER" Outside "foreign data wrappers reach other servers"
    CreateForeignServerStmt "CREATE SERVER" Outside "foreign servers are reached past the gateway"
    AlterForeignServerStmt "ALTER SERVER" Outside "foreign servers are reached past the gateway"
    CreateUserMappingStmt "CREATE USER MAPPING" Outside "foreign servers are reached past the gateway"
    AlterUserMappingStmt "ALTER USER MAPPING" Outside "foreign servers are reached past the gateway"
    DropUserMappingStmt "DROP USER MAPPING" Outside "foreign servers are reached past the gateway"
    ImportForeignSchemaStmt "IMPORT FOREIGN SCHEMA" Outside "foreign servers are reached past the gateway"
    CreateAmStmt "CREATE ACCESS METHOD" Server "access methods bring code of their own"
    CreateEventTrigStmt "CREATE EVENT TRIGGER" Server "event triggers run in everybody's sessions"
    AlterEventTrigStmt "ALTER EVENT TRIGGER" Server "event triggers run in everybody's sessions"
    CreatePLangStmt "CREATE LANGUAGE" Server "languages bring code of their own"
    CreateOpClassStmt "CREATE OPERATOR CLASS" Server "operator classes are for superusers"
    CreateOpFamilyStmt "CREATE OPERATOR FAMILY" Server "operator families are for superusers"
    AlterOpFamilyStmt "ALTER OPERATOR FAMILY" Server "operator families are for superusers"
    SecLabelStmt "SECURITY LABEL" Server "security labels belong to the server as a whole"
    DoStmt "DO" Code "DO runs code that cannot be read here"
    LoadStmt "LOAD" Server "LOAD brings code into the server"
    CreatedbStmt "CREATE DATABASE" Server "databases belong to the server as a whole"
    AlterDatabaseStmt "ALTER DATABASE" Server "databases belong to the server as a whole"
    AlterDatabaseRefreshCollStmt "ALTER DATABASE" Server "databases belong to the server as a whole"
    AlterDatabaseSetStmt "ALTER DATABASE" Server "databases belong to the server as a whole"
    DropdbStmt "DROP DATABASE" Server "databases belong to the server as a whole"
    AlterSystemStmt "ALTER SYSTEM" Server "the server's settings belong to the server as a whole"
    CheckPointStmt "CHECKPOINT" Server "checkpoints belong to the server as a whole"
    CreateConversionStmt "CREATE CONVERSION" Server "conversions change how texts are read"
    CreateCastStmt "CREATE CAST" Server "casts change what other statements do"
    CreateTransformStmt "CREATE TRANSFORM" Server "transforms bring code of their own"
    CreateSubscriptionStmt "CREATE SUBSCRIPTION" Outside "subscriptions reach other servers"
    AlterSubscriptionStmt "ALTER SUBSCRIPTION" Outside "subscriptions reach other servers"
    DropSubscriptionStmt "DROP SUBSCRIPTION" Outside "subscriptions reach other servers"
}

/// Statements that make or change an object with a schema that is no relation.
macro_rules! parts {
    ($($type:ident $tag:literal $kind:literal $name:ident { $($field:ident),* })*) => {
        $(impl Visit for pb::$type {
            fn walk(&self, w: &mut Walk) {
                w.seen();
                w.is(Kind::Ddl, $tag);
                w.changes = true;
                self.$name.walk(w);
                w.with(READ, |_w| { $(self.$field.walk(_w);)* });
                part(w, $kind, &self.$name);
            }
        })*
    };
}

parts! {
    CreateDomainStmt "CREATE DOMAIN" "type" domainname { type_name, coll_clause, constraints }
    AlterDomainStmt "ALTER DOMAIN" "type" type_name { def }
    CreateEnumStmt "CREATE TYPE" "type" type_name { vals }
    AlterEnumStmt "ALTER TYPE" "type" type_name {}
    CreateRangeStmt "CREATE TYPE" "type" type_name { params }
    AlterTypeStmt "ALTER TYPE" "type" type_name { options }
    AlterStatsStmt "ALTER STATISTICS" "statistics" defnames { stxstattarget }
    AlterCollationStmt "ALTER COLLATION" "collation" collname {}
    AlterTsDictionaryStmt "ALTER TEXT SEARCH DICTIONARY" "text-search" dictname { options }
    AlterTsConfigurationStmt "ALTER TEXT SEARCH CONFIGURATION" "text-search" cfgname { tokentype, dicts }
}

fn part(w: &mut Walk, kind: &'static str, name: &[pb::Node]) {
    match listed_name(name) {
        Some(name) => w.want(Want::Part { kind, name }),
        None => w.refuse(Why::Syntax, "an object's name is not understood"),
    }
}

fn if_there(missing_ok: bool) -> Use {
    if missing_ok { MANAGE_IF_THERE } else { MANAGE }
}

impl Visit for pb::AlterTableStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        let tag = match pb::ObjectType::try_from(self.objtype) {
            Ok(pb::ObjectType::ObjectView) => "ALTER VIEW",
            Ok(pb::ObjectType::ObjectMatview) => "ALTER MATERIALIZED VIEW",
            Ok(pb::ObjectType::ObjectSequence) => "ALTER SEQUENCE",
            Ok(pb::ObjectType::ObjectIndex) => "ALTER INDEX",
            Ok(pb::ObjectType::ObjectForeignTable) => "ALTER FOREIGN TABLE",
            Ok(pb::ObjectType::ObjectType) => "ALTER TYPE",
            _ => "ALTER TABLE",
        };
        w.is(Kind::Ddl, tag);
        w.changes = true;
        // Indexes and row types are not among the relations that are looked up.
        let found = matches!(tag, "ALTER INDEX" | "ALTER TYPE");
        w.with(if_there(self.missing_ok || found), |w| {
            self.relation.walk(w);
            self.cmds.walk(w);
        });
    }
}

impl Visit for pb::AlterSeqStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Ddl, "ALTER SEQUENCE");
        w.changes = true;
        w.with(if_there(self.missing_ok), |w| {
            self.sequence.walk(w);
            self.options.walk(w);
        });
    }
}

impl Visit for pb::CreateStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Ddl, "CREATE TABLE");
        w.changes = true;
        w.with(MAKE, |w| self.relation.walk(w));
        w.with(MANAGE, |w| {
            self.table_elts.walk(w);
            self.inh_relations.walk(w);
            self.partbound.walk(w);
            self.partspec.walk(w);
            self.of_typename.walk(w);
            self.constraints.walk(w);
            self.nnconstraints.walk(w);
            self.options.walk(w);
        });
    }
}

impl Visit for pb::CreateSchemaStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Ddl, "CREATE SCHEMA");
        w.changes = true;
        self.authrole.walk(w);
        let made = w.wants.len();
        self.schema_elts.walk(w);
        let schema = if self.schemaname.is_empty() {
            self.authrole.as_ref().map_or("", |role| role.rolename.as_str())
        } else {
            &self.schemaname
        };
        if schema.is_empty() {
            w.refuse(Why::Computed, "the schema's name is not written");
        }
        // What is made in the same statement is made in the new schema.
        for want in w.wants.iter_mut().skip(made) {
            if let Want::Relation { name, lookup: Lookup::New, .. } = want {
                name.schema.get_or_insert_with(|| schema.into());
            }
        }
        w.want(Want::Global { kind: "schema", name: schema.into() });
    }
}

impl Visit for pb::CreateTrigStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Ddl, "CREATE TRIGGER");
        w.changes = true;
        self.funcname.walk(w);
        w.with(MANAGE, |w| {
            self.relation.walk(w);
            self.args.walk(w);
            self.columns.walk(w);
            self.when_clause.walk(w);
            self.transition_rels.walk(w);
            self.constrrel.walk(w);
        });
        match listed_name(&self.funcname) {
            Some(name) => w.want(Want::Function { name, arguments: 0 }),
            None => w.refuse(Why::Syntax, "a function's name is not understood"),
        }
    }
}

impl Visit for pb::ViewStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Ddl, "CREATE VIEW");
        w.changes = true;
        w.with(MAKE, |w| self.view.walk(w));
        self.aliases.walk(w);
        self.query.walk(w);
        self.options.walk(w);
    }
}

impl Visit for pb::CreateStatsStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Ddl, "CREATE STATISTICS");
        w.changes = true;
        w.with(MANAGE, |w| {
            self.defnames.walk(w);
            self.stat_types.walk(w);
            self.exprs.walk(w);
            self.relations.walk(w);
        });
    }
}

impl Visit for pb::VacuumStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Ddl, if self.is_vacuumcmd { "VACUUM" } else { "ANALYZE" });
        w.changes = true;
        w.with(MANAGE, |w| {
            self.options.walk(w);
            self.rels.walk(w);
        });
        if self.rels.is_empty() {
            w.refuse(Why::Computed, "the tables are not named");
        }
    }
}

impl Visit for pb::ReindexStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Ddl, "REINDEX");
        w.changes = true;
        self.params.walk(w);
        w.with(MANAGE_IF_THERE, |w| self.relation.walk(w));
        match pb::ReindexObjectType::try_from(self.kind) {
            Ok(pb::ReindexObjectType::ReindexObjectIndex | pb::ReindexObjectType::ReindexObjectTable) => {}
            Ok(pb::ReindexObjectType::ReindexObjectSchema) => {
                w.want(Want::Global { kind: "schema", name: self.name.as_str().into() });
            }
            _ => w.refuse(Why::Server, "databases belong to the server as a whole"),
        }
    }
}

impl Visit for pb::DefineStmt {
    fn walk(&self, w: &mut Walk) {
        use pb::ObjectType as O;
        w.seen();
        let (tag, kind) = match O::try_from(self.kind) {
            Ok(O::ObjectAggregate) => ("CREATE AGGREGATE", "aggregate"),
            Ok(O::ObjectOperator) => ("CREATE OPERATOR", "operator"),
            Ok(O::ObjectCollation) => ("CREATE COLLATION", "collation"),
            Ok(O::ObjectType) => ("CREATE TYPE", "type"),
            Ok(O::ObjectTsconfiguration | O::ObjectTsdictionary) => ("CREATE TEXT SEARCH", "text-search"),
            _ => {
                w.is(Kind::Ddl, "CREATE");
                w.refuse(Why::Server, "the object brings code of its own");
                return;
            }
        };
        w.is(Kind::Ddl, tag);
        w.changes = true;
        self.defnames.walk(w);
        self.args.walk(w);
        self.definition.walk(w);
        part(w, kind, &self.defnames);
    }
}

impl Visit for pb::CreateFunctionStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Ddl, if self.is_procedure { "CREATE PROCEDURE" } else { "CREATE FUNCTION" });
        w.changes = true;
        self.funcname.walk(w);
        w.with(READ, |w| {
            self.parameters.walk(w);
            self.return_type.walk(w);
            self.options.walk(w);
            self.sql_body.walk(w);
        });
        match listed_name(&self.funcname) {
            Some(name) => w.want(Want::Routine { name, lookup: Lookup::New }),
            None => w.refuse(Why::Syntax, "a function's name is not understood"),
        }
    }
}

impl Visit for pb::AlterFunctionStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Ddl, "ALTER FUNCTION");
        w.changes = true;
        self.func.walk(w);
        self.actions.walk(w);
        match self.func.as_ref().and_then(|object| listed_name(&object.objname)) {
            Some(name) => w.want(Want::Routine { name, lookup: Lookup::Existing }),
            None => w.refuse(Why::Syntax, "a function's name is not understood"),
        }
    }
}

impl Visit for pb::AlterOperatorStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Ddl, "ALTER OPERATOR");
        w.changes = true;
        self.opername.walk(w);
        self.options.walk(w);
        part(w, "operator", self.opername.as_ref().map_or(&[], |object| &object.objname));
    }
}

impl Visit for pb::DropStmt {
    fn walk(&self, w: &mut Walk) {
        use pb::ObjectType as O;
        w.seen();
        let kind = O::try_from(self.remove_type);
        let tag = match kind {
            Ok(O::ObjectTable) => "DROP TABLE",
            Ok(O::ObjectView) => "DROP VIEW",
            Ok(O::ObjectMatview) => "DROP MATERIALIZED VIEW",
            Ok(O::ObjectSequence) => "DROP SEQUENCE",
            Ok(O::ObjectIndex) => "DROP INDEX",
            Ok(O::ObjectSchema) => "DROP SCHEMA",
            Ok(O::ObjectFunction) => "DROP FUNCTION",
            Ok(O::ObjectProcedure) => "DROP PROCEDURE",
            Ok(O::ObjectTrigger) => "DROP TRIGGER",
            Ok(O::ObjectType) => "DROP TYPE",
            _ => "DROP",
        };
        w.is(Kind::Ddl, tag);
        w.changes = true;
        let lookup =
            if self.missing_ok || kind == Ok(O::ObjectIndex) { Lookup::Either } else { Lookup::Existing };
        for node in &self.objects {
            node.walk(w);
            object::manage(w, self.remove_type, node, lookup);
        }
    }
}

impl Visit for pb::CommentStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Ddl, "COMMENT");
        w.changes = true;
        managed(w, self.objtype, None, self.object.as_deref(), Lookup::Existing);
    }
}

/// The object of a statement that takes many kinds: a relation by itself, or a name by its kind.
fn managed(
    w: &mut Walk,
    kind: i32,
    relation: Option<&pb::RangeVar>,
    object: Option<&pb::Node>,
    lookup: Lookup,
) {
    if let Some(relation) = relation {
        query::named(w, relation, Verb::Manage, lookup);
    }
    if let Some(object) = object {
        w.with(MANAGE, |w| walk_name(w, object));
        object::manage(w, kind, object, lookup);
    }
}

/// Walks a name; relations among the names are wanted by whoever knows what for.
fn walk_name(w: &mut Walk, node: &pb::Node) {
    if let Some(N::RangeVar(relation)) = node.node.as_ref() {
        w.seen();
        relation.alias.walk(w);
    } else {
        node.walk(w);
    }
}

impl Visit for pb::RenameStmt {
    fn walk(&self, w: &mut Walk) {
        use pb::ObjectType as O;
        w.seen();
        w.is(Kind::Ddl, "ALTER");
        w.changes = true;
        let kind = O::try_from(self.rename_type);
        let lookup =
            if self.missing_ok || kind == Ok(O::ObjectIndex) { Lookup::Either } else { Lookup::Existing };
        match kind {
            Ok(O::ObjectSchema) => {
                w.want(Want::Global { kind: "schema", name: self.subname.as_str().into() });
                w.want(Want::Global { kind: "schema", name: self.newname.as_str().into() });
            }
            Ok(O::ObjectRole) => w.refuse(Why::Role, "roles are managed where they come from"),
            _ if self.relation.is_none() && self.object.is_none() => {
                w.refuse(Why::Server, "the object belongs to the server as a whole");
            }
            _ => {}
        }
        managed(w, self.rename_type, self.relation.as_ref(), self.object.as_deref(), lookup);
    }
}

impl Visit for pb::AlterObjectDependsStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Ddl, "ALTER");
        w.refuse(Why::Server, "extensions bring code of their own");
    }
}

impl Visit for pb::AlterObjectSchemaStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Ddl, "ALTER");
        w.changes = true;
        let lookup = if self.missing_ok { Lookup::Either } else { Lookup::Existing };
        managed(w, self.object_type, self.relation.as_ref(), self.object.as_deref(), lookup);
        w.want(Want::Global { kind: "schema", name: self.newschema.as_str().into() });
    }
}

impl Visit for pb::AlterOwnerStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Ddl, "ALTER");
        w.changes = true;
        self.newowner.walk(w);
        managed(w, self.object_type, self.relation.as_ref(), self.object.as_deref(), Lookup::Existing);
    }
}

impl Visit for pb::GrantStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Ddl, if self.is_grant { "GRANT" } else { "REVOKE" });
        w.changes = true;
        self.privileges.walk(w);
        self.grantees.walk(w);
        self.grantor.walk(w);
        let in_schema =
            pb::GrantTargetType::try_from(self.targtype) == Ok(pb::GrantTargetType::AclTargetAllInSchema);
        let kind = if in_schema { pb::ObjectType::ObjectSchema as i32 } else { self.objtype };
        for node in &self.objects {
            walk_name(w, node);
            object::manage(w, kind, node, Lookup::Existing);
        }
    }
}

impl Visit for pb::CreatePublicationStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Ddl, "CREATE PUBLICATION");
        w.changes = true;
        publication(w, &self.pubname, self.for_all_tables, &self.options, &self.pubobjects);
    }
}

impl Visit for pb::AlterPublicationStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Ddl, "ALTER PUBLICATION");
        w.changes = true;
        publication(w, &self.pubname, self.for_all_tables, &self.options, &self.pubobjects);
    }
}

fn publication(w: &mut Walk, name: &str, all: bool, options: &Vec<pb::Node>, objects: &Vec<pb::Node>) {
    w.with(MANAGE, |w| {
        options.walk(w);
        objects.walk(w);
    });
    if all {
        w.refuse(Why::Computed, "the tables are not named");
    }
    for node in objects {
        if let Some(N::PublicationObjSpec(object)) = node.node.as_ref()
            && object.pubtable.is_none()
        {
            if object.name.is_empty() {
                w.refuse(Why::Computed, "the schema's name is not written");
            }
            w.want(Want::Global { kind: "schema", name: object.name.as_str().into() });
        }
    }
    w.want(Want::Global { kind: "publication", name: name.into() });
}

impl Visit for pb::TruncateStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Truncate, "TRUNCATE TABLE");
        w.changes = true;
        w.with(Use { verb: Verb::Delete, lookup: Lookup::Existing }, |w| self.relations.walk(w));
        if pb::DropBehavior::try_from(self.behavior) == Ok(pb::DropBehavior::DropCascade) {
            w.refuse(Why::Computed, "TRUNCATE … CASCADE empties tables that are not named");
        }
    }
}

impl Visit for pb::LockStmt {
    fn walk(&self, w: &mut Walk) {
        const ACCESS_SHARE: i32 = 1;
        w.seen();
        w.is(Kind::Lock, "LOCK TABLE");
        w.changes = self.mode != ACCESS_SHARE;
        let verb = if w.changes { Verb::Write } else { Verb::Read };
        w.with(Use { verb, lookup: Lookup::Existing }, |w| self.relations.walk(w));
    }
}

impl Visit for pb::CopyStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        let direction = if self.is_from { Direction::In } else { Direction::Out };
        w.is(Kind::Copy(direction), "COPY");
        if self.is_program {
            w.refuse(Why::Outside, "COPY … PROGRAM runs a program on the server");
        }
        if !self.filename.is_empty() {
            w.refuse(Why::Outside, "COPY with a file reaches the server's own files");
        }
        w.changes |= self.is_from;
        let verb = if self.is_from { Verb::Write } else { Verb::Read };
        w.with(Use { verb, lookup: Lookup::Existing }, |w| self.relation.walk(w));
        self.query.walk(w);
        self.attlist.walk(w);
        self.options.walk(w);
        self.where_clause.walk(w);
    }
}

impl Visit for pb::CallStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Call, "CALL");
        w.changes = true;
        self.funccall.walk(w);
        self.outargs.walk(w);
    }
}

impl Visit for pb::ExplainStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        let analyze = self.options.iter().any(|node| match node.node.as_ref() {
            Some(N::DefElem(option)) if option.defname.eq_ignore_ascii_case("analyze") => {
                !option.arg.as_deref().is_some_and(is_off)
            }
            _ => false,
        });
        w.is(Kind::Explain { analyze }, "EXPLAIN");
        self.options.walk(w);
        self.query.walk(w);
        w.changes &= analyze;
    }
}

/// Whether an option's value says no.
fn is_off(node: &pb::Node) -> bool {
    match node.node.as_ref() {
        Some(N::String(text)) => ["off", "false"].iter().any(|off| text.sval.eq_ignore_ascii_case(off)),
        Some(N::Integer(number)) => number.ival == 0,
        Some(N::Boolean(value)) => !value.boolval,
        _ => false,
    }
}

impl Visit for pb::CreateTableAsStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        let view = pb::ObjectType::try_from(self.objtype) == Ok(pb::ObjectType::ObjectMatview);
        w.is(Kind::Ddl, if view { "CREATE MATERIALIZED VIEW" } else { "CREATE TABLE AS" });
        self.into.walk(w);
        self.query.walk(w);
    }
}

impl Visit for pb::PrepareStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Prepare(self.name.as_str().into()), "PREPARE");
        w.session.prepares = true;
        self.argtypes.walk(w);
        self.query.walk(w);
    }
}

impl Visit for pb::ExecuteStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        if !w.is(Kind::Execute(self.name.as_str().into()), "EXECUTE") {
            w.refuse(Why::SqlAsText, "EXECUTE inside of another statement");
        }
        // The prepared statement may do anything; who knows it says what.
        w.changes = true;
        self.params.walk(w);
    }
}

impl Visit for pb::DeallocateStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        let name = (!self.name.is_empty()).then(|| self.name.as_str().into());
        w.is(Kind::Deallocate(name), if self.name.is_empty() { "DEALLOCATE ALL" } else { "DEALLOCATE" });
    }
}

impl Visit for pb::DeclareCursorStmt {
    fn walk(&self, w: &mut Walk) {
        const HOLD: i32 = 0x20;
        w.seen();
        w.is(Kind::Declare(self.portalname.as_str().into()), "DECLARE CURSOR");
        w.session.holds_cursor |= self.options & HOLD != 0;
        self.query.walk(w);
    }
}

impl Visit for pb::FetchStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Fetch(self.portalname.as_str().into()), if self.ismove { "MOVE" } else { "FETCH" });
    }
}

impl Visit for pb::ClosePortalStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        let name = (!self.portalname.is_empty()).then(|| self.portalname.as_str().into());
        w.is(Kind::Close(name), if self.portalname.is_empty() { "CLOSE CURSOR ALL" } else { "CLOSE CURSOR" });
    }
}

impl Visit for pb::ListenStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        let name: Box<str> = self.conditionname.as_str().into();
        w.is(Kind::Listen(name.clone()), "LISTEN");
        w.session.listens = true;
        w.want(Want::Channel { listens: true, name });
    }
}

impl Visit for pb::NotifyStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        let name: Box<str> = self.conditionname.as_str().into();
        w.is(Kind::Notify(name.clone()), "NOTIFY");
        w.changes = true;
        w.want(Want::Channel { listens: false, name });
    }
}

impl Visit for pb::UnlistenStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        let name = (!self.conditionname.is_empty()).then(|| self.conditionname.as_str().into());
        w.is(Kind::Unlisten(name), "UNLISTEN");
    }
}

impl Visit for pb::DiscardStmt {
    fn walk(&self, w: &mut Walk) {
        use pb::DiscardMode as D;
        w.seen();
        let (what, tag) = match D::try_from(self.target) {
            Ok(D::DiscardPlans) => (Discard::Plans, "DISCARD PLANS"),
            Ok(D::DiscardSequences) => (Discard::Sequences, "DISCARD SEQUENCES"),
            Ok(D::DiscardTemp) => (Discard::Temp, "DISCARD TEMP"),
            _ => (Discard::All, "DISCARD ALL"),
        };
        w.is(Kind::Discard(what), tag);
    }
}

impl Visit for pb::ConstraintsSetStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::SetConstraints, "SET CONSTRAINTS");
        // Constraints are named, not relations; what they say is checked in either case.
        self.constraints.iter().for_each(|node| walk_name(w, node));
    }
}

impl Visit for pb::VariableShowStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Show(self.name.to_ascii_lowercase().into()), "SHOW");
    }
}

impl Visit for pb::VariableSetStmt {
    fn walk(&self, w: &mut Walk) {
        use pb::VariableSetKind as V;
        w.seen();
        let tag = match V::try_from(self.kind) {
            Ok(V::VarReset | V::VarResetAll) => "RESET",
            _ => "SET",
        };
        let alone = w.is(Kind::Set, tag);
        self.args.walk(w);
        let name = self.name.to_ascii_lowercase();
        let mut note = |name: String, value: Option<Box<str>>, local: bool, computed: bool| {
            let setting = Setting { name: name.into(), value, local };
            let mut other = (Vec::new(), Default::default());
            let mut sink = w_settings(w);
            if !alone {
                // A setting of a function or of a role: not the session's, and refused for the same reasons.
                sink.settings = &mut other.0;
                sink.session = &mut other.1;
            }
            settings::set(sink, setting, computed);
        };
        match V::try_from(self.kind) {
            Ok(V::VarSetValue) => note(name, Some(joined(&self.args).into()), self.is_local, true),
            Ok(V::VarSetDefault | V::VarReset) => note(name, None, self.is_local, false),
            Ok(V::VarSetCurrent) => note(name, None, true, false),
            Ok(V::VarResetAll) => note("all".to_owned(), None, false, false),
            Ok(V::VarSetMulti) => {
                // SET TRANSACTION …; SET SESSION CHARACTERISTICS AS TRANSACTION …
                let prefix = if name == "session characteristics" { "default_" } else { "" };
                for node in &self.args {
                    match node.node.as_ref() {
                        Some(N::DefElem(option)) => {
                            let value = option.arg.as_deref().and_then(constant).map(Into::into);
                            note(format!("{prefix}{}", option.defname), value, prefix.is_empty(), false);
                        }
                        _ => note(
                            "transaction_snapshot".to_owned(),
                            constant(node).map(Into::into),
                            true,
                            false,
                        ),
                    }
                }
            }
            _ => w.refuse(Why::Syntax, "a setting is not understood"),
        }
    }
}

/// The values of a setting, joined as its text would be.
fn joined(args: &[pb::Node]) -> String {
    args.iter().filter_map(constant).collect::<Vec<_>>().join(", ")
}

/// A constant as a text.
fn constant(node: &pb::Node) -> Option<String> {
    match node.node.as_ref()? {
        N::AConst(constant) => match constant.val.as_ref()? {
            Val::Sval(text) => Some(text.sval.clone()),
            Val::Ival(number) => Some(number.ival.to_string()),
            Val::Fval(number) => Some(number.fval.clone()),
            Val::Boolval(value) => Some(value.boolval.to_string()),
            Val::Bsval(_) => None,
        },
        N::TypeCast(cast) => constant(cast.arg.as_deref()?),
        _ => text_of(node).map(ToOwned::to_owned),
    }
}

impl Visit for pb::TransactionStmt {
    fn walk(&self, w: &mut Walk) {
        use pb::TransactionStmtKind as T;
        w.seen();
        self.options.walk(w);
        let savepoint = || self.savepoint_name.as_str().into();
        let gid = || self.gid.as_str().into();
        let (tag, effect) = match T::try_from(self.kind) {
            Ok(T::TransStmtBegin) => ("BEGIN", Transaction::Begin { read_only: read_only(&self.options) }),
            Ok(T::TransStmtStart) => {
                ("START TRANSACTION", Transaction::Begin { read_only: read_only(&self.options) })
            }
            Ok(T::TransStmtCommit) => ("COMMIT", Transaction::Commit { chain: self.chain }),
            Ok(T::TransStmtRollback) => ("ROLLBACK", Transaction::Rollback { chain: self.chain }),
            Ok(T::TransStmtSavepoint) => ("SAVEPOINT", Transaction::Savepoint(savepoint())),
            Ok(T::TransStmtRelease) => ("RELEASE", Transaction::Release(savepoint())),
            Ok(T::TransStmtRollbackTo) => ("ROLLBACK", Transaction::RollbackTo(savepoint())),
            Ok(T::TransStmtPrepare) => ("PREPARE TRANSACTION", Transaction::Prepare(gid())),
            Ok(T::TransStmtCommitPrepared) => ("COMMIT PREPARED", Transaction::CommitPrepared(gid())),
            Ok(T::TransStmtRollbackPrepared) => ("ROLLBACK PREPARED", Transaction::RollbackPrepared(gid())),
            _ => {
                w.refuse(Why::Syntax, "a transaction statement is not understood");
                return;
            }
        };
        w.is(Kind::Transaction, tag);
        w.transaction = effect;
    }
}

fn read_only(options: &[pb::Node]) -> Option<bool> {
    options.iter().rev().find_map(|node| match node.node.as_ref()? {
        N::DefElem(option) if option.defname == "transaction_read_only" => {
            Some(constant(option.arg.as_deref()?)? != "0")
        }
        _ => None,
    })
}
