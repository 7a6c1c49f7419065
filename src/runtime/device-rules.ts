/**
 * Device rules in the order of a document → what a v1 devices group is to be told. In: rules, of which a later one overrides an earlier one. Out: the fewest
 * rules with the same meaning, or an error with the document's path. Pure.
 *
 * A v1 group denies (or allows) everything but a list of exceptions. A part of an exception cannot be taken out of it: the kernel ignores a rule that says so,
 * silently. Such a rule is refused here, as runc does. Source: the kernel's Documentation/admin-guide/cgroup-v1/devices.rst.
 */
import { type SpecDeviceRule } from '#oci';
import { hostLacks } from './refusals.ts';

const letters = 'rwm';
const accessOf = ({ access = letters }: SpecDeviceRule): readonly string[] => [...letters].filter((letter) => access.includes(letter));
const describe = ({ type, major, minor }: SpecDeviceRule): string => `${type} ${major ?? '*'}:${minor ?? '*'}`;

/** True where there is a device that both name. */
function overlaps(a: SpecDeviceRule, b: SpecDeviceRule): boolean {
  const meet = (x: number | undefined, y: number | undefined): boolean => x === undefined || y === undefined || x === y;
  return a.type === b.type && meet(a.major, b.major) && meet(a.minor, b.minor);
}

/** True where the first names every device that the second does. */
function covers(a: SpecDeviceRule, b: SpecDeviceRule): boolean {
  const holds = (x: number | undefined, y: number | undefined): boolean => x === undefined || x === y;
  return a.type === b.type && holds(a.major, b.major) && holds(a.minor, b.minor);
}

/** The rule with other kinds of access; undefined without any. */
function withAccess(rule: SpecDeviceRule, access: (letter: string) => boolean): SpecDeviceRule | undefined {
  const text = [...letters].filter(access).join('');
  return text === '' ? undefined : { ...rule, access: text };
}

/** What is left of the exceptions once the rule, which says what holds without them, came after them. */
function takeBack(exceptions: readonly SpecDeviceRule[], rule: SpecDeviceRule, path: string): readonly SpecDeviceRule[] {
  const asked = accessOf(rule);
  return exceptions.flatMap((exception) => {
    if (!overlaps(exception, rule) || !accessOf(exception).some((letter) => asked.includes(letter))) return [exception];
    if (!covers(rule, exception))
      throw hostLacks(path, `cgroup v1 cannot ${rule.allow ? 'deny' : 'allow'} ${describe(exception)} and ${rule.allow ? 'allow' : 'deny'} ${describe(rule)} of it`);
    return withAccess(exception, (letter) => accessOf(exception).includes(letter) && !asked.includes(letter)) ?? [];
  });
}

/** The exceptions with one more. */
function addException(exceptions: readonly SpecDeviceRule[], rule: SpecDeviceRule): readonly SpecDeviceRule[] {
  const index = exceptions.findIndex((other) => covers(other, rule) && covers(rule, other));
  const before = exceptions[index];
  const asked = accessOf(rule);
  if (before === undefined) return [...exceptions, { ...rule, access: asked.join('') }];
  return exceptions.with(index, withAccess(rule, (letter) => asked.includes(letter) || accessOf(before).includes(letter)) ?? rule);
}

/** The rules for a new group; the first one names everything. Throws failedPrecondition for what v1 cannot express. */
export function simplifyDeviceRules(rules: readonly SpecDeviceRule[], path: string): readonly SpecDeviceRule[] {
  const start = rules.findLastIndex(({ type }) => type === 'a');
  const allowed = rules[start]?.allow ?? false;
  let exceptions: readonly SpecDeviceRule[] = [];
  for (const rule of rules.slice(start + 1)) exceptions = rule.allow === allowed ? takeBack(exceptions, rule, path) : addException(exceptions, rule);
  return [{ allow: allowed, type: 'a' }, ...exceptions];
}
