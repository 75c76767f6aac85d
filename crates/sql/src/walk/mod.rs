//! The walk over a syntax tree: each structure says which of its parts are walked, and what it wants.
//!
//! Invariants:
//! - Every structure counts itself. The census counts them all; a difference refuses the statement.
//! - A kind of node that PostgreSQL's grammar does not make (it makes raw trees only) is refused.
//! - Names of common table expressions stand for relations only in their scope, and never as what a
//!   statement changes.

mod census;
mod expression;
mod object;
mod query;
mod utility;

use doorward_core::Verb;
use pg_query::protobuf as pb;
use pg_query::protobuf::node::Node as N;

use crate::error::{Unknown, Why};
use crate::statement::{Kind, Lookup, Name, SessionEffects, Setting, Shape, Transaction, Want};

/// What the walk found out, beside the shape.
pub(crate) struct Walked {
    /// The shape, without its fingerprint.
    pub(crate) shape: Shape,
    /// Whether texts that differ only in literals have the same shape.
    pub(crate) blind_to_literals: bool,
}

/// Reads one statement of a syntax tree.
pub(crate) fn read(statement: &pb::Node) -> Walked {
    let mut walk = Walk::default();
    statement.walk(&mut walk);
    if walk.refused.is_none() && census::count(statement) != Some(walk.seen) {
        walk.refuse(Why::Syntax, "a part of the statement is not understood");
    }
    walk.finish()
}

/// Something that can be walked.
trait Visit {
    fn walk(&self, w: &mut Walk);
}

/// How a relation that is named stands to the statement.
#[derive(Clone, Copy)]
struct Use {
    verb: Verb,
    lookup: Lookup,
}

const READ: Use = Use { verb: Verb::Read, lookup: Lookup::Existing };
const MANAGE: Use = Use { verb: Verb::Manage, lookup: Lookup::Existing };
const MAKE: Use = Use { verb: Verb::Manage, lookup: Lookup::New };
const MANAGE_IF_THERE: Use = Use { verb: Verb::Manage, lookup: Lookup::Either };

struct Walk {
    /// Structures visited.
    seen: usize,
    /// What a relation that is met is wanted for.
    relation: Use,
    /// Common table expressions in scope, innermost last.
    ctes: Vec<Box<str>>,
    /// What the items of the FROM clause in hand are called, and which wants they brought.
    labels: Vec<(Box<str>, std::ops::Range<usize>)>,
    wants: Vec<Want>,
    /// Columns met so far.
    columns: usize,
    kind: Option<(Kind, &'static str)>,
    refused: Option<Unknown>,
    parameters: u16,
    changes: bool,
    blind_to_literals: bool,
    session: SessionEffects,
    transaction: Transaction,
    settings: Vec<Setting>,
}

impl Default for Walk {
    fn default() -> Self {
        Self {
            seen: 0,
            relation: READ,
            ctes: Vec::new(),
            labels: Vec::new(),
            wants: Vec::new(),
            columns: 0,
            kind: None,
            refused: None,
            parameters: 0,
            changes: false,
            blind_to_literals: true,
            session: SessionEffects::default(),
            transaction: Transaction::None,
            settings: Vec::new(),
        }
    }
}

impl Walk {
    /// Counts a structure.
    fn seen(&mut self) {
        self.seen += 1;
    }

    /// The first statement that is met is the one that the whole is; tells whether this is it.
    fn is(&mut self, kind: Kind, tag: &'static str) -> bool {
        let first = self.kind.is_none();
        if first {
            self.kind = Some((kind, tag));
        }
        first
    }

    /// The first reason stands.
    fn refuse(&mut self, why: Why, what: impl Into<std::borrow::Cow<'static, str>>) {
        self.refused.get_or_insert_with(|| Unknown::new(why, what));
    }

    fn want(&mut self, want: Want) {
        // Lists of many rows repeat the functions that they call. Relations keep their places: labels count them.
        let relation = matches!(want, Want::Relation { .. });
        if relation || self.wants.last() != Some(&want) {
            self.wants.push(want);
        }
    }

    /// Walks with relations taken for another use.
    fn with(&mut self, relation: Use, walk: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.relation, relation);
        walk(self);
        self.relation = before;
    }

    /// Walks what has a scope of its own for common table expressions and labels.
    fn scoped(&mut self, walk: impl FnOnce(&mut Self)) {
        let ctes = self.ctes.len();
        let labels = std::mem::take(&mut self.labels);
        walk(self);
        self.ctes.truncate(ctes);
        self.labels = labels;
    }

    /// A relation, for what relations are wanted at this place.
    fn relation(&mut self, relation: &pb::RangeVar) {
        let Use { verb, lookup } = self.relation;
        self.relation_for(relation, verb, lookup);
    }

    fn relation_for(&mut self, relation: &pb::RangeVar, verb: Verb, lookup: Lookup) {
        if relation.relpersistence == "t" {
            self.session.temporary = true;
            return;
        }
        let name = range_name(relation);
        if name.schema.as_deref() == Some("pg_temp") {
            // What lives in the session's own schema is the session's own.
            self.session.temporary |= lookup != Lookup::Existing;
            return;
        }
        self.want(Want::Relation { verb, name, lookup });
    }

    fn finish(mut self) -> Walked {
        self.wants.sort_unstable();
        self.wants.dedup();
        let (kind, tag) = self.kind.unwrap_or_else(|| {
            self.refused.get_or_insert_with(|| Unknown::new(Why::Syntax, "the statement is not understood"));
            (Kind::Ddl, "UNKNOWN")
        });
        let later = match kind {
            Kind::Declare(_) => true,
            // Who calls a function needs a grant for that, after which names are looked up anew.
            Kind::Ddl => !matches!(tag, "CREATE TABLE AS" | "CREATE FUNCTION" | "CREATE PROCEDURE"),
            _ => false,
        };
        if later && !self.settings.is_empty() {
            let what = "a setting that is changed whenever what the statement makes is used";
            self.refused.get_or_insert_with(|| Unknown::new(Why::Code, what));
        }
        // Other statements keep their literals: what they set, whether they run.
        let plain = matches!(kind, Kind::Select | Kind::Insert | Kind::Update | Kind::Delete | Kind::Merge);
        Walked {
            shape: Shape {
                kind,
                tag,
                fingerprint: None,
                wants: self.wants,
                refused: self.refused,
                parameters: self.parameters,
                reads_only: !self.changes,
                session: self.session,
                transaction: self.transaction,
                settings: self.settings,
            },
            blind_to_literals: self.blind_to_literals && plain,
        }
    }
}

/// The name of a relation. The database may only be the one that the connection is to; PostgreSQL refuses
/// another one.
fn range_name(relation: &pb::RangeVar) -> Name {
    Name {
        schema: (!relation.schemaname.is_empty()).then(|| relation.schemaname.as_str().into()),
        name: relation.relname.as_str().into(),
    }
}

/// A name that is written as a list of strings: `schema.name`, or with the database in front.
fn listed_name(parts: &[pb::Node]) -> Option<Name> {
    let mut texts = parts.iter().rev().map(text_of);
    let name = texts.next()??;
    let schema = match texts.next() {
        Some(schema) => Some(schema?.into()),
        None => None,
    };
    Some(Name { schema, name: name.into() })
}

/// Equality that is not written: it is looked up by name like any other operator.
fn equality(w: &mut Walk) {
    w.want(Want::Operator(Name { schema: None, name: "=".into() }));
}

/// The text of a string node.
fn text_of(node: &pb::Node) -> Option<&str> {
    match node.node.as_ref()? {
        N::String(text) => Some(&text.sval),
        _ => None,
    }
}

impl<T: Visit> Visit for Option<T> {
    fn walk(&self, w: &mut Walk) {
        if let Some(part) = self {
            part.walk(w);
        }
    }
}

impl<T: Visit> Visit for Box<T> {
    fn walk(&self, w: &mut Walk) {
        T::walk(self, w);
    }
}

impl<T: Visit> Visit for Vec<T> {
    fn walk(&self, w: &mut Walk) {
        for part in self {
            part.walk(w);
        }
    }
}

impl Visit for pb::Node {
    fn walk(&self, w: &mut Walk) {
        self.node.walk(w);
    }
}

/// All kinds of node. The plain ones want nothing themselves: the parts that are walked stand beside them. The
/// others have an implementation of their own.
macro_rules! nodes {
    (plain: [$($variant:ident($type:ident) { $($field:ident),* })*] own: [$($own:ident)*]) => {
        $(impl Visit for pb::$type {
            fn walk(&self, w: &mut Walk) {
                w.seen();
                $(self.$field.walk(w);)*
            }
        })*

        impl Visit for N {
            fn walk(&self, w: &mut Walk) {
                match self {
                    $(N::$variant(node) => node.walk(w),)*
                    $(N::$own(node) => node.walk(w),)*
                    _ => w.refuse(Why::Syntax, "a part of the statement is of a kind that is not known"),
                }
            }
        }
    };
}

nodes! {
    plain: [
        Alias(Alias) { colnames }
        GroupingFunc(GroupingFunc) { xpr, args, refs }
        NamedArgExpr(NamedArgExpr) { xpr, arg }
        BoolExpr(BoolExpr) { xpr, args }
        CaseWhen(CaseWhen) { xpr, expr, result }
        RowExpr(RowExpr) { xpr, args, colnames }
        CoalesceExpr(CoalesceExpr) { xpr, args }
        MinMaxExpr(MinMaxExpr) { xpr, args }
        SqlvalueFunction(SqlValueFunction) { xpr }
        XmlExpr(XmlExpr) { xpr, named_args, arg_names, args }
        JsonFormat(JsonFormat) {}
        JsonReturning(JsonReturning) { format }
        JsonValueExpr(JsonValueExpr) { raw_expr, formatted_expr, format }
        JsonIsPredicate(JsonIsPredicate) { expr, format }
        JsonBehavior(JsonBehavior) { expr }
        NullTest(NullTest) { xpr, arg }
        BooleanTest(BooleanTest) { xpr, arg }
        SetToDefault(SetToDefault) { xpr }
        CurrentOfExpr(CurrentOfExpr) { xpr }
        TypeName(TypeName) { names, typmods, array_bounds }
        CollateClause(CollateClause) { arg, collname }
        RoleSpec(RoleSpec) {}
        AStar(AStar) {}
        AIndices(AIndices) { lidx, uidx }
        AArrayExpr(AArrayExpr) { elements }
        MultiAssignRef(MultiAssignRef) { source }
        WindowDef(WindowDef) { partition_clause, order_clause, start_offset, end_offset }
        RangeTableFunc(RangeTableFunc) { docexpr, rowexpr, namespaces, columns, alias }
        RangeTableFuncCol(RangeTableFuncCol) { type_name, colexpr, coldefexpr }
        ColumnDef(ColumnDef) { type_name, raw_default, cooked_default, identity_sequence, coll_clause, constraints, fdwoptions }
        DefElem(DefElem) { arg }
        XmlSerialize(XmlSerialize) { expr, type_name }
        PartitionElem(PartitionElem) { expr, collation, opclass }
        PartitionSpec(PartitionSpec) { part_params }
        PartitionBoundSpec(PartitionBoundSpec) { listdatums, lowerdatums, upperdatums }
        PartitionRangeDatum(PartitionRangeDatum) { value }
        PartitionCmd(PartitionCmd) { name, bound }
        GroupingSet(GroupingSet) { content }
        InferClause(InferClause) { index_elems, where_clause }
        OnConflictClause(OnConflictClause) { infer, target_list, where_clause }
        CtesearchClause(CteSearchClause) { search_col_list }
        CtecycleClause(CteCycleClause) { cycle_col_list, cycle_mark_value, cycle_mark_default }
        CommonTableExpr(CommonTableExpr) { aliascolnames, ctequery, search_clause, cycle_clause, ctecolnames, ctecoltypes, ctecoltypmods, ctecolcollations }
        ReturningOption(ReturningOption) {}
        ReturningClause(ReturningClause) { options, exprs }
        TriggerTransition(TriggerTransition) {}
        JsonOutput(JsonOutput) { type_name, returning }
        JsonArgument(JsonArgument) { val }
        JsonTablePathSpec(JsonTablePathSpec) { string }
        JsonTable(JsonTable) { context_item, pathspec, passing, columns, on_error, alias }
        JsonTableColumn(JsonTableColumn) { type_name, pathspec, format, columns, on_empty, on_error }
        JsonKeyValue(JsonKeyValue) { key, value }
        JsonAggConstructor(JsonAggConstructor) { output, agg_filter, agg_order, over }
        ReturnStmt(ReturnStmt) { returnval }
        AlterTableCmd(AlterTableCmd) { newowner, def }
        AtalterConstraint(AtAlterConstraint) {}
        ReplicaIdentityStmt(ReplicaIdentityStmt) {}
        ObjectWithArgs(ObjectWithArgs) { objname, objargs, objfuncargs }
        AccessPriv(AccessPriv) { cols }
        Constraint(Constraint) { raw_expr, keys, including, exclusions, options, where_clause, pktable, fk_attrs, pk_attrs, fk_del_set_cols, old_conpfeqop }
        CreateOpClassItem(CreateOpClassItem) { name, order_family, class_args, storedtype }
        StatsElem(StatsElem) { expr }
        FunctionParameter(FunctionParameter) { arg_type, defexpr }
        VacuumRelation(VacuumRelation) { relation, va_cols }
        PublicationTable(PublicationTable) { relation, where_clause, columns }
        PublicationObjSpec(PublicationObjSpec) { pubtable }
        Integer(Integer) {}
        Float(Float) {}
        Boolean(Boolean) {}
        String(String) {}
        BitString(BitString) {}
        List(List) { items }
        ResTarget(ResTarget) { indirection, val }
        RangeFunction(RangeFunction) { functions, alias, coldeflist }
        IndexElem(IndexElem) { expr, collation, opclass, opclassopts }
        MergeWhenClause(MergeWhenClause) { condition, target_list, values }
    ]
    own: [
        CaseExpr RangeVar SelectStmt InsertStmt UpdateStmt DeleteStmt MergeStmt WithClause LockingClause FuncCall
        ColumnRef AIndirection AExpr SubLink SortBy ParamRef AConst IntoClause RangeSubselect JoinExpr
        RangeTableSample TypeCast TableLikeClause CreateSchemaStmt AlterTableStmt AlterCollationStmt
        AlterDomainStmt GrantStmt GrantRoleStmt AlterDefaultPrivilegesStmt CopyStmt VariableSetStmt
        VariableShowStmt CreateStmt CreateTableSpaceStmt DropTableSpaceStmt AlterTableSpaceOptionsStmt
        AlterTableMoveAllStmt CreateExtensionStmt AlterExtensionStmt AlterExtensionContentsStmt
        CreateFdwStmt AlterFdwStmt CreateForeignServerStmt AlterForeignServerStmt CreateForeignTableStmt
        CreateUserMappingStmt AlterUserMappingStmt DropUserMappingStmt ImportForeignSchemaStmt
        CreatePolicyStmt AlterPolicyStmt CreateAmStmt CreateTrigStmt CreateEventTrigStmt AlterEventTrigStmt
        CreatePlangStmt CreateRoleStmt AlterRoleStmt AlterRoleSetStmt DropRoleStmt CreateSeqStmt
        AlterSeqStmt DefineStmt CreateDomainStmt CreateOpClassStmt CreateOpFamilyStmt AlterOpFamilyStmt
        DropStmt TruncateStmt CommentStmt SecLabelStmt DeclareCursorStmt ClosePortalStmt FetchStmt
        IndexStmt CreateStatsStmt AlterStatsStmt CreateFunctionStmt AlterFunctionStmt DoStmt CallStmt
        RenameStmt AlterObjectDependsStmt AlterObjectSchemaStmt AlterOwnerStmt AlterOperatorStmt
        AlterTypeStmt RuleStmt NotifyStmt ListenStmt UnlistenStmt TransactionStmt CompositeTypeStmt
        CreateEnumStmt CreateRangeStmt AlterEnumStmt ViewStmt LoadStmt CreatedbStmt AlterDatabaseStmt
        AlterDatabaseRefreshCollStmt AlterDatabaseSetStmt DropdbStmt AlterSystemStmt ClusterStmt VacuumStmt
        ExplainStmt CreateTableAsStmt RefreshMatViewStmt CheckPointStmt DiscardStmt LockStmt
        ConstraintsSetStmt ReindexStmt CreateConversionStmt CreateCastStmt CreateTransformStmt PrepareStmt
        ExecuteStmt DeallocateStmt DropOwnedStmt ReassignOwnedStmt AlterTsdictionaryStmt
        AlterTsconfigurationStmt CreatePublicationStmt AlterPublicationStmt CreateSubscriptionStmt
        AlterSubscriptionStmt DropSubscriptionStmt MergeSupportFunc JsonFuncExpr JsonParseExpr JsonScalarExpr
        JsonSerializeExpr JsonObjectConstructor JsonArrayConstructor JsonArrayQueryConstructor JsonObjectAgg
        JsonArrayAgg
    ]
}
