/**
 * linux.seccomp: unknown JSON → SpecSeccomp. In: the object of config.json, or a profile file in the same form. Out: typed values, or
 * invalidArgument with the document's path. No policy. Source: opencontainers/runtime-spec 1.3, config-linux.md "Seccomp".
 */
import { invalidArgument } from '#core';
import { type Decoder, arrayOf, compact, decodeNonEmptyString, decodeString, decodeUint64, fieldsOf, integerBetween, oneOf, pathOf } from './decode.ts';
import { type SeccompArg, type SeccompFlag, type SeccompRule, type SpecSeccomp, seccompActions, seccompArchitectures, seccompFlags, seccompOperators } from './runtime-spec.ts';

const decodeSeccompArg: Decoder<SeccompArg> = (value, path) => {
  const fields = fieldsOf(value, path);
  return {
    index: fields.required('index', integerBetween(0, 5)),
    value: fields.required('value', decodeUint64),
    valueTwo: fields.withDefault('valueTwo', decodeUint64, 0n),
    op: fields.required('op', oneOf('operator', seccompOperators)),
  };
};

const decodeSeccompRule: Decoder<SeccompRule> = (value, path) => {
  const fields = fieldsOf(value, path);
  const names = fields.required('names', arrayOf(decodeNonEmptyString, 4096));
  if (names.length === 0) throw invalidArgument(pathOf(path, 'names'), 'must have at least one item');
  return compact({
    names,
    action: fields.required('action', oneOf('action', seccompActions)),
    // With SCMP_ACT_TRACE a number for the tracer, which is no errno.
    errnoRet: fields.optional('errnoRet', integerBetween(0, 0xffff)),
    args: fields.withDefault('args', arrayOf(decodeSeccompArg, 64), []),
  });
};

/** A document that says nothing of flags has this one, as with runc: the others are switches, this one spares processes a slower kernel. */
const flagsDefault: readonly SeccompFlag[] = ['SECCOMP_FILTER_FLAG_SPEC_ALLOW'];
const decodePath: Decoder<string | undefined> = (value, path) => (value === '' ? undefined : decodeString(value, path));

/** A seccomp profile in the form of the runtime specification. */
export const decodeSeccomp: Decoder<SpecSeccomp> = (value, path) => {
  const fields = fieldsOf(value, path);
  return compact({
    defaultAction: fields.required('defaultAction', oneOf('action', seccompActions)),
    defaultErrnoRet: fields.optional('defaultErrnoRet', integerBetween(0, 0xffff)),
    architectures: fields.withDefault('architectures', arrayOf(oneOf('architecture', seccompArchitectures), 64), []),
    flags: fields.withDefault('flags', arrayOf(oneOf('flag', seccompFlags), 16), flagsDefault),
    syscalls: fields.withDefault('syscalls', arrayOf(decodeSeccompRule, 4096), []),
    listenerPath: fields.optional('listenerPath', decodePath),
    listenerMetadata: fields.optional('listenerMetadata', decodePath),
  });
};

/** The same where it stands in a document: an object that says neither what is refused nor what is allowed means no filter, as with runc. */
export const decodeDocumentSeccomp: Decoder<SpecSeccomp | undefined> = (value, path) => {
  const fields = fieldsOf(value, path);
  const isEmpty =
    fields.withDefault('defaultAction', decodeString, '') === '' && fields.withDefault('syscalls', (rules) => !Array.isArray(rules) || rules.length > 0, false) === false;
  return isEmpty ? undefined : decodeSeccomp(value, path);
};
