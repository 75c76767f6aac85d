//! Functions, operators, columns and constants.

use doorward_core::Verb;
use pg_query::protobuf as pb;
use pg_query::protobuf::a_const::Val;
use pg_query::protobuf::node::Node as N;

use super::{Visit, Walk, equality, listed_name};
use crate::error::Why;
use crate::functions::{self, Special};
use crate::name;
use crate::settings;
use crate::statement::{Lookup, Name, Setting, Want};

impl Visit for pb::AConst {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        if self.val.is_some() {
            w.seen();
        }
    }
}

impl Visit for pb::ParamRef {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        match u16::try_from(self.number) {
            Ok(number) => w.parameters = w.parameters.max(number),
            Err(_) => w.refuse(Why::Syntax, "there is no parameter of that number"),
        }
    }
}

impl Visit for pb::ColumnRef {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.columns += 1;
        self.fields.walk(w);
        // `row.name` calls the function `name` when the row has no such column.
        if let [_, .., last] = self.fields.as_slice()
            && let Some(N::String(text)) = last.node.as_ref()
        {
            w.want(Want::Attribute(text.sval.as_str().into()));
        }
    }
}

impl Visit for pb::AIndirection {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        self.arg.walk(w);
        self.indirection.walk(w);
        for part in &self.indirection {
            if let Some(N::String(text)) = part.node.as_ref() {
                w.want(Want::Attribute(text.sval.as_str().into()));
            }
        }
    }
}

/// An operator, by the list of strings that names it.
fn operator(w: &mut Walk, parts: &[pb::Node]) {
    parts.iter().for_each(|part| part.walk(w));
    match listed_name(parts) {
        Some(name) => w.want(Want::Operator(name)),
        None => w.refuse(Why::Syntax, "an operator is not understood"),
    }
}

impl Visit for pb::AExpr {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        operator(w, &self.name);
        self.lexpr.walk(w);
        self.rexpr.walk(w);
    }
}

impl Visit for pb::CaseExpr {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        self.xpr.walk(w);
        self.arg.walk(w);
        if self.arg.is_some() {
            equality(w);
        }
        self.args.walk(w);
        self.defresult.walk(w);
    }
}

impl Visit for pb::SubLink {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        self.xpr.walk(w);
        self.testexpr.walk(w);
        if self.oper_name.is_empty() {
            equality(w);
        } else {
            operator(w, &self.oper_name);
        }
        self.subselect.walk(w);
    }
}

impl Visit for pb::SortBy {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        self.node.walk(w);
        if !self.use_op.is_empty() {
            operator(w, &self.use_op);
        }
    }
}

impl Visit for pb::TypeCast {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        self.arg.walk(w);
        self.type_name.walk(w);
    }
}

impl Visit for pb::RangeTableSample {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        self.relation.walk(w);
        self.method.walk(w);
        self.args.walk(w);
        self.repeatable.walk(w);
        match listed_name(&self.method) {
            Some(name) => w.want(Want::Function { name, arguments: 1 }),
            None => w.refuse(Why::Syntax, "a sampling method is not understood"),
        }
    }
}

/// Words of the grammar that servers before PostgreSQL 16 or 17 take for names of functions.
macro_rules! newer {
    ($($type:ident $word:literal { $($field:ident),* })*) => {
        $(impl Visit for pb::$type {
            fn walk(&self, w: &mut Walk) {
                w.seen();
                $(self.$field.walk(w);)*
                w.want(Want::Word($word));
            }
        })*
    };
}

newer! {
    MergeSupportFunc "merge_action" { xpr }
    JsonParseExpr "json" { expr, output }
    JsonScalarExpr "json_scalar" { expr, output }
    JsonSerializeExpr "json_serialize" { expr, output }
    JsonObjectConstructor "json_object" { exprs, output }
    JsonArrayConstructor "json_array" { exprs, output }
    JsonArrayQueryConstructor "json_array" { query, output, format }
    JsonObjectAgg "json_objectagg" { constructor, arg }
    JsonArrayAgg "json_arrayagg" { constructor, arg }
}

impl Visit for pb::JsonFuncExpr {
    fn walk(&self, w: &mut Walk) {
        use pb::JsonExprOp as Op;
        w.seen();
        self.context_item.walk(w);
        self.pathspec.walk(w);
        self.passing.walk(w);
        self.output.walk(w);
        self.on_empty.walk(w);
        self.on_error.walk(w);
        w.want(Want::Word(match Op::try_from(self.op) {
            Ok(Op::JsonExistsOp) => "json_exists",
            Ok(Op::JsonQueryOp) => "json_query",
            Ok(Op::JsonValueOp) => "json_value",
            _ => "json_table",
        }));
    }
}

impl Visit for pb::FuncCall {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        self.funcname.walk(w);
        self.args.walk(w);
        self.agg_order.walk(w);
        self.agg_filter.walk(w);
        self.over.walk(w);
        let Some(name) = listed_name(&self.funcname) else {
            w.refuse(Why::Syntax, "a function's name is not understood");
            return;
        };
        let arguments = u16::try_from(self.args.len()).unwrap_or(u16::MAX);
        // What is named without a schema may be PostgreSQL's own: those come first.
        if matches!(name.schema.as_deref(), None | Some("pg_catalog")) {
            special(w, self, &name.name);
        }
        w.want(Want::Function { name, arguments });
    }
}

/// PostgreSQL's own functions that do to a named thing what a statement could do.
fn special(w: &mut Walk, call: &pb::FuncCall, name: &str) {
    let Some(special) = functions::special(name) else { return };
    // The literals of this statement say what it does, so they are part of what it is.
    w.blind_to_literals &= special == Special::AdvisoryLock;
    match special {
        Special::SetConfig => set_config(w, call),
        Special::Sequence(verb) => {
            w.session.sequence = true;
            w.changes |= verb.changes();
            sequence(w, call, verb, name);
        }
        Special::Notify => match call.args.first().and_then(literal) {
            Some(channel) => {
                w.changes = true;
                w.want(Want::Channel { listens: false, name: channel.into() });
            }
            None => w.refuse(Why::Computed, "the channel that pg_notify sends to is computed"),
        },
        Special::AdvisoryLock => w.session.advisory_lock = true,
    }
}

/// `nextval('orders_id_seq')`, and `setval(pg_get_serial_sequence('orders', 'id'), …)`.
fn sequence(w: &mut Walk, call: &pb::FuncCall, verb: Verb, function: &str) {
    let first = call.args.first();
    let named = match first.and_then(literal) {
        Some(text) => name::parse(text),
        // The sequence of a column stands for its table.
        None => first.and_then(serial_table),
    };
    match named {
        Some(name) => w.want(Want::Relation { verb, name, lookup: Lookup::Existing }),
        None => w.refuse(Why::Computed, format!("the sequence that {function} is called for is computed")),
    }
}

/// The table of `pg_get_serial_sequence('table', …)`.
fn serial_table(node: &pb::Node) -> Option<Name> {
    let Some(N::FuncCall(call)) = uncast(node) else { return None };
    let function = listed_name(&call.funcname)?;
    let own = matches!(function.schema.as_deref(), None | Some("pg_catalog"));
    if !own || &*function.name != "pg_get_serial_sequence" {
        return None;
    }
    call.args.first().and_then(literal).and_then(name::parse)
}

fn set_config(w: &mut Walk, call: &pb::FuncCall) {
    let [setting, value, local] = call.args.as_slice() else {
        w.refuse(Why::Computed, "the setting that set_config sets is computed");
        return;
    };
    let Some(setting) = literal(setting) else {
        w.refuse(Why::Computed, "the setting that set_config sets is computed");
        return;
    };
    let local = matches!(
        uncast(local),
        Some(N::AConst(pb::AConst { val: Some(Val::Boolval(pb::Boolean { boolval: true })), .. }))
    );
    let value = literal(value).map(Into::into);
    settings::set(w_settings(w), Setting { name: setting.to_ascii_lowercase().into(), value, local }, true);
}

/// The parts of the walk that a setting touches.
pub(super) fn w_settings(w: &mut Walk) -> settings::Sink<'_> {
    settings::Sink { settings: &mut w.settings, session: &mut w.session, refused: &mut w.refused }
}

/// What stands under casts to types by name: `'x'::text`, `text 'x'`.
fn uncast(node: &pb::Node) -> Option<&N> {
    match node.node.as_ref()? {
        N::TypeCast(cast) => match cast.arg.as_ref()?.node.as_ref()? {
            N::TypeCast(_) => None,
            inner => Some(inner),
        },
        other => Some(other),
    }
}

/// The text of a string constant, cast or not to a type that keeps it.
pub(super) fn literal(node: &pb::Node) -> Option<&str> {
    const KEEP: [&str; 5] = ["text", "regclass", "varchar", "name", "unknown"];
    if let N::TypeCast(cast) = node.node.as_ref()? {
        let name = listed_name(&cast.type_name.as_ref()?.names)?;
        let builtin = matches!(name.schema.as_deref(), None | Some("pg_catalog"));
        let plain = cast.type_name.as_ref()?.typmods.is_empty();
        if !builtin || !plain || !KEEP.contains(&&*name.name) {
            return None;
        }
    }
    match uncast(node)? {
        N::AConst(pb::AConst { val: Some(Val::Sval(text)), .. }) => Some(&text.sval),
        _ => None,
    }
}
