//! What a method is, and the `methods!` macro that declares one in a row.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, value::RawValue};

use crate::{check::check, error::ErrorShape};

/// What a caller needs for a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Nothing at all.
    Open,
    /// `operator.read`.
    Read,
    /// `operator.write`.
    Write,
    /// `operator.admin`.
    Admin,
    /// `operator.approvals`.
    Approvals,
    /// `operator.questions`.
    Questions,
    /// `operator.pairing`.
    Pairing,
    /// `operator.talk`.
    Talk,
    /// The node role, no operator scope.
    Node,
    /// Decided by the parameters; see [`crate::scope::needed`].
    Dynamic,
}

impl Scope {
    /// Its name on the wire; empty for [`Scope::Open`], [`Scope::Node`] and [`Scope::Dynamic`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "operator.read",
            Self::Write => "operator.write",
            Self::Admin => "operator.admin",
            Self::Approvals => "operator.approvals",
            Self::Questions => "operator.questions",
            Self::Pairing => "operator.pairing",
            Self::Talk => "operator.talk",
            Self::Open | Self::Node | Self::Dynamic => "",
        }
    }
}

/// Peculiarities of a method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// None.
    pub const NONE: Self = Self(0);
    /// Not listed in `features.methods`.
    pub const HIDDEN: Self = Self(1);
    /// Answers a retryable `UNAVAILABLE` until the gateway's parts are ready.
    pub const SIDECARS: Self = Self(2);
    /// Counted by the control-plane limit (30 a minute and client).
    pub const CONTROL: Self = Self(4);
    /// Answers twice with the same id: accepted, then the end.
    pub const TWICE: Self = Self(8);
    /// Looks for its session before it checks its other parameters.
    pub const TARGET: Self = Self(16);

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True when all of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// One row of the method table.
#[derive(Clone, Copy)]
pub struct MethodSpec {
    /// The wire name.
    pub name: &'static str,
    /// What a caller needs.
    pub scope: Scope,
    /// Peculiarities.
    pub flags: Flags,
    /// What it does, Markdown.
    pub doc: &'static str,
    /// JSON Schema of the parameters, made at first use.
    pub params: fn() -> &'static Value,
    /// JSON Schema of the result, made anew on each call (only documentation needs it).
    pub result: fn() -> Value,
}

impl fmt::Debug for MethodSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MethodSpec").field("name", &self.name).field("scope", &self.scope).field("flags", &self.flags).finish_non_exhaustive()
    }
}

impl MethodSpec {
    /// Checks parameters against the schema. Absent parameters count as `{}`.
    ///
    /// # Errors
    /// `invalid <method> params: ...`.
    pub fn check(&self, params: &Value) -> Result<(), ErrorShape> {
        check((self.params)(), params).map_err(|detail| ErrorShape::params(self.name, &detail))
    }
}

/// A method as a type, for callers: `client.call::<cron::Add>(params)`.
pub trait Method {
    /// Its parameters.
    type Params: Serialize + DeserializeOwned + JsonSchema + Send + Sync;
    /// Its result.
    type Result: Serialize + DeserializeOwned + JsonSchema + Send;
    /// Its row.
    const SPEC: MethodSpec;
}

/// Parameters that are read freely by the handler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Loose(pub Map<String, Value>);

impl JsonSchema for Loose {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Loose".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "object" })
    }
}

/// A field that may be left alone, cleared with `null`, or set.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Change<T> {
    /// The field was absent.
    #[default]
    Keep,
    /// The field was `null`.
    Clear,
    /// The field has a value.
    Set(T),
}

impl<T> Change<T> {
    /// True when the field was absent.
    pub const fn is_keep(&self) -> bool {
        matches!(self, Self::Keep)
    }

    /// `None` leaves it alone, `Some(None)` clears, `Some(Some(value))` sets.
    pub fn into_option(self) -> Option<Option<T>> {
        match self {
            Self::Keep => None,
            Self::Clear => Some(None),
            Self::Set(value) => Some(Some(value)),
        }
    }
}

impl<T: Serialize> Serialize for Change<T> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Keep | Self::Clear => to.serialize_none(),
            Self::Set(value) => value.serialize(to),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Change<T> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Option::<T>::deserialize(from)?.map_or(Self::Clear, Self::Set))
    }
}

impl<T: JsonSchema> JsonSchema for Change<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Change_{}", T::schema_name()).into()
    }
    fn json_schema(make: &mut SchemaGenerator) -> schemars::Schema {
        let inner = make.subschema_for::<T>();
        // `oneOf` tells it from the `anyOf` of an Option, whose null is removed.
        schemars::json_schema!({ "oneOf": [inner, { "type": "null" }] })
    }
}

/// The JSON Schema of a type as we publish and check it: definitions inlined, no titles, optional fields do
/// not take `null` (only a [`Change`] does).
#[must_use]
pub fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|s| s.inline_subschemas = true);
    let mut schema = SchemaGenerator::new(settings).into_root_schema_for::<T>().to_value();
    tidy(&mut schema);
    schema
}

fn tidy(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    for word in ["$schema", "title", "format"] {
        if object.get(word).is_some_and(Value::is_string) {
            object.remove(word);
        }
    }
    let required: Vec<String> = object.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect();
    if let Some(fields) = object.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, field) in fields.iter_mut() {
            if !required.iter().any(|r| r == name) {
                without_null(field);
            }
        }
    }
    if let Some(values) = object.get("oneOf").and_then(Value::as_array).and_then(|all| all.iter().map(constants).collect::<Option<Vec<_>>>()) {
        object.remove("oneOf");
        object.insert("enum".into(), Value::Array(values.into_iter().flatten().collect()));
    }
    for word in ["properties", "definitions", "$defs"] {
        if let Some(all) = object.get_mut(word).and_then(Value::as_object_mut) {
            all.values_mut().for_each(tidy);
        }
    }
    for word in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(word) {
            tidy(inner);
        }
    }
    for word in ["anyOf", "oneOf", "allOf"] {
        if let Some(all) = object.get_mut(word).and_then(Value::as_array_mut) {
            all.iter_mut().for_each(tidy);
        }
    }
}

fn constants(option: &Value) -> Option<Vec<Value>> {
    if let Some(constant) = option.get("const") {
        return Some(vec![constant.clone()]);
    }
    option.get("enum").and_then(Value::as_array).cloned()
}

fn without_null(field: &mut Value) {
    let Some(object) = field.as_object_mut() else { return };
    if let Some(Value::Array(kinds)) = object.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [only] = kinds.as_slice() {
            let only = only.clone();
            object.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Array(options)) = object.get_mut("anyOf") {
        options.retain(|option| option.get("type").is_none_or(|kind| kind != "null"));
        if let [Value::Object(only)] = options.as_slice() {
            let only = only.clone();
            object.remove("anyOf");
            for (word, value) in only {
                object.entry(word).or_insert(value);
            }
        }
    }
}

/// The future of a handler's answer.
pub type Answer = Pin<Box<dyn Future<Output = Result<Box<RawValue>, ErrorShape>> + Send>>;
/// A handler with its types erased: context and checked parameters in, JSON out.
pub type Handler<C> = Box<dyn Fn(C, Value) -> Answer + Send + Sync>;

/// The handlers of one area, ready for a router.
pub struct Mounted<C> {
    /// The trait they implement.
    pub area: &'static str,
    /// The rows, in the order of `handlers`.
    pub rows: &'static [MethodSpec],
    /// One for each row.
    pub handlers: Vec<Handler<C>>,
}

/// Reads checked parameters. Used by the code that `methods!` writes.
///
/// # Errors
/// `invalid <method> params: ...` for what the schema does not say.
pub fn read<P: DeserializeOwned>(method: &str, params: Value) -> Result<P, ErrorShape> {
    serde_json::from_value(params).map_err(|err| ErrorShape::params(method, &err.to_string()))
}

/// Writes a result. Used by the code that `methods!` writes.
///
/// # Errors
/// When the result has no JSON form (a map with keys that are not text).
pub fn write<R: Serialize>(method: &str, result: &R) -> Result<Box<RawValue>, ErrorShape> {
    serde_json::value::to_raw_value(result).map_err(|err| ErrorShape::unavailable(format!("the result of {method} could not be written: {err}")))
}

/// Shares an `Arc` between handlers. Used by the code that `methods!` writes.
#[must_use]
pub fn share<A: ?Sized>(api: &Arc<A>) -> Arc<A> {
    Arc::clone(api)
}

/// Declares the methods of one area, one row each: name, parameters, result, scope, flags, documentation.
///
/// From the rows come the marker types (`cron::Add`) with their [`Method`] rows, the table `ROWS`, the trait
/// that handlers implement (a missing handler does not compile), and `mount`, which erases a handler set for
/// a router.
macro_rules! methods {
    (
        $(#[doc = $area_doc:literal])+
        trait $Api:ident {
            $(
                $(#[doc = $doc:literal])+
                $Name:ident : $wire:literal => fn $handler:ident($Params:ty) -> $Result:ty, scope: $scope:ident $(, flags: [$($flag:ident),*])? ;
            )*
        }
    ) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Copy, Debug)]
            pub struct $Name;

            impl $crate::method::Method for $Name {
                type Params = $Params;
                type Result = $Result;
                const SPEC: $crate::method::MethodSpec = $crate::method::MethodSpec {
                    name: $wire,
                    scope: $crate::method::Scope::$scope,
                    flags: $crate::method::Flags::NONE$($(.with($crate::method::Flags::$flag))*)?,
                    doc: concat!($($doc, "\n"),+),
                    params: || {
                        static SCHEMA: std::sync::OnceLock<serde_json::Value> = std::sync::OnceLock::new();
                        SCHEMA.get_or_init($crate::method::schema_of::<$Params>)
                    },
                    result: $crate::method::schema_of::<$Result>,
                };
            }
        )*

        $(#[doc = $area_doc])+
        ///
        /// `C` is the context that the gateway gives each call.
        #[async_trait::async_trait]
        pub trait $Api<C: ::core::marker::Send + ::core::marker::Sync + 'static>: ::core::marker::Send + ::core::marker::Sync + 'static {
            $(
                $(#[doc = $doc])+
                async fn $handler(&self, cx: &C, params: $Params) -> Result<$Result, $crate::error::ErrorShape>;
            )*
        }

        /// The rows of this area.
        pub static ROWS: &[$crate::method::MethodSpec] = &[$(<$Name as $crate::method::Method>::SPEC),*];

        /// Makes the handlers of this area ready for a router.
        pub fn mount<C: ::core::marker::Send + ::core::marker::Sync + 'static>(api: impl $Api<C>) -> $crate::method::Mounted<C> {
            let api = std::sync::Arc::new(api);
            let handlers: Vec<$crate::method::Handler<C>> = vec![$(
                {
                    let api = $crate::method::share(&api);
                    Box::new(move |cx: C, params: serde_json::Value| {
                        let api = $crate::method::share(&api);
                        Box::pin(async move {
                            let params: $Params = $crate::method::read($wire, params)?;
                            let result = api.$handler(&cx, params).await?;
                            $crate::method::write($wire, &result)
                        }) as $crate::method::Answer
                    })
                }
            ),*];
            $crate::method::Mounted { area: stringify!($Api), rows: ROWS, handlers }
        }
    };
}
pub(crate) use methods;

/// Declares parameter structs tersely: closed objects in camelCase. `name: type` is required, `name?: type`
/// optional; `text` is a string of at least one character, `text(n)` at most `n`, `int(a..b)` a whole number
/// within bounds.
macro_rules! params {
    ($($(#[$meta:meta])* $Name:ident { $($body:tt)* })*) => {
        $(params!(@ [$(#[$meta])* $Name] [] $($body)*);)*
    };
    (@ [$(#[$meta:meta])* $Name:ident] [$($out:tt)*]) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        #[allow(missing_docs, reason = "field names are the documentation unless a comment adds to them")]
        pub struct $Name { $($out)* }
    };
    (@ $head:tt [$($out:tt)*] $(#[$m:meta])* $f:ident ?: text($max:literal) $(, $($rest:tt)*)?) => {
        params!(@ $head [$($out)* $(#[$m])* #[serde(default, skip_serializing_if = "Option::is_none")] #[schemars(length(min = 1, max = $max))] pub $f: Option<String>,] $($($rest)*)?);
    };
    (@ $head:tt [$($out:tt)*] $(#[$m:meta])* $f:ident : text($max:literal) $(, $($rest:tt)*)?) => {
        params!(@ $head [$($out)* $(#[$m])* #[schemars(length(min = 1, max = $max))] pub $f: String,] $($($rest)*)?);
    };
    (@ $head:tt [$($out:tt)*] $(#[$m:meta])* $f:ident ?: text $(, $($rest:tt)*)?) => {
        params!(@ $head [$($out)* $(#[$m])* #[serde(default, skip_serializing_if = "Option::is_none")] #[schemars(length(min = 1))] pub $f: Option<String>,] $($($rest)*)?);
    };
    (@ $head:tt [$($out:tt)*] $(#[$m:meta])* $f:ident : text $(, $($rest:tt)*)?) => {
        params!(@ $head [$($out)* $(#[$m])* #[schemars(length(min = 1))] pub $f: String,] $($($rest)*)?);
    };
    (@ $head:tt [$($out:tt)*] $(#[$m:meta])* $f:ident ?: int($min:literal ..) $(, $($rest:tt)*)?) => {
        params!(@ $head [$($out)* $(#[$m])* #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::method::whole_or_none")] #[schemars(range(min = $min))] pub $f: Option<u64>,] $($($rest)*)?);
    };
    (@ $head:tt [$($out:tt)*] $(#[$m:meta])* $f:ident : int($min:literal ..) $(, $($rest:tt)*)?) => {
        params!(@ $head [$($out)* $(#[$m])* #[serde(deserialize_with = "crate::method::whole")] #[schemars(range(min = $min))] pub $f: u64,] $($($rest)*)?);
    };
    (@ $head:tt [$($out:tt)*] $(#[$m:meta])* $f:ident ?: int($min:literal .. $max:literal) $(, $($rest:tt)*)?) => {
        params!(@ $head [$($out)* $(#[$m])* #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::method::whole_or_none")] #[schemars(range(min = $min, max = $max))] pub $f: Option<u64>,] $($($rest)*)?);
    };
    (@ $head:tt [$($out:tt)*] $(#[$m:meta])* $f:ident : int($min:literal .. $max:literal) $(, $($rest:tt)*)?) => {
        params!(@ $head [$($out)* $(#[$m])* #[serde(deserialize_with = "crate::method::whole")] #[schemars(range(min = $min, max = $max))] pub $f: u64,] $($($rest)*)?);
    };
    (@ $head:tt [$($out:tt)*] $(#[$m:meta])* $f:ident ?: int $(, $($rest:tt)*)?) => {
        params!(@ $head [$($out)* $(#[$m])* #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::method::whole_or_none")] #[schemars(range(min = 0))] pub $f: Option<u64>,] $($($rest)*)?);
    };
    (@ $head:tt [$($out:tt)*] $(#[$m:meta])* $f:ident ?: change($ty:ty) $(, $($rest:tt)*)?) => {
        params!(@ $head [$($out)* $(#[$m])* #[serde(default, skip_serializing_if = "crate::method::Change::is_keep")] pub $f: crate::method::Change<$ty>,] $($($rest)*)?);
    };
    (@ $head:tt [$($out:tt)*] $(#[$m:meta])* $f:ident ?: $ty:ty $(, $($rest:tt)*)?) => {
        params!(@ $head [$($out)* $(#[$m])* #[serde(default, skip_serializing_if = "Option::is_none")] pub $f: Option<$ty>,] $($($rest)*)?);
    };
    (@ $head:tt [$($out:tt)*] $(#[$m:meta])* $f:ident : $ty:ty $(, $($rest:tt)*)?) => {
        params!(@ $head [$($out)* $(#[$m])* pub $f: $ty,] $($($rest)*)?);
    };
}
pub(crate) use params;

/// Closed lists of words: `words! { /// doc  Name: "a" => A, "b" => B }`.
macro_rules! words {
    ($($(#[$meta:meta])* $Name:ident : $($text:literal => $Variant:ident),+ ;)*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[allow(missing_docs, reason = "the words are the documentation")]
        pub enum $Name { $(#[serde(rename = $text)] $Variant),+ }

        impl $Name {
            /// Its word on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$Variant => $text),+ }
            }
        }
    )*};
}
pub(crate) use words;

/// Reads a whole number that may be written as `5.0`, as JavaScript clients may.
pub(crate) fn whole<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let number = serde_json::Number::deserialize(from)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be whole and in range")]
    number
        .as_u64()
        .or_else(|| number.as_f64().filter(|n| n.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(n)).map(|n| n as u64))
        .ok_or_else(|| serde::de::Error::custom("must be integer"))
}

/// As [`whole`], for optional fields.
pub(crate) fn whole_or_none<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    whole(from).map(Some)
}
