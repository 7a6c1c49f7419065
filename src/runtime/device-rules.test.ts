/** Device rules for v1: the same meaning in the fewest rules, checked against a model of the kernel's list, and what that list cannot hold. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type SpecDeviceRule } from '#oci';
import { deviceRulesOf } from './cgroup-driver.ts';
import { describeDeviceRule } from './cgroup-v1.ts';
import { simplifyDeviceRules } from './device-rules.ts';

const simplify = (rules: readonly SpecDeviceRule[]): readonly string[] =>
  simplifyDeviceRules(rules, 'linux.resources.devices').map((rule) => `${rule.allow ? '+' : '-'}${describeDeviceRule(rule)}`);
const c = (major: number | undefined, minor: number | undefined, allow: boolean, access?: string): SpecDeviceRule => ({
  type: 'c',
  allow,
  ...(major === undefined ? {} : { major }),
  ...(minor === undefined ? {} : { minor }),
  ...(access === undefined ? {} : { access }),
});
const all = (allow: boolean): SpecDeviceRule => ({ type: 'a', allow });

test('rules for one device become one', () => {
  assert.deepEqual(simplify([c(1, 3, true, 'w'), c(1, 3, true, 'r'), c(2, 3, true)]), ['-a', '+c 1:3 rw', '+c 2:3 rwm']);
  assert.deepEqual(simplify([c(1, 3, true), c(1, 3, false, 'w')]), ['-a', '+c 1:3 rm']);
  assert.deepEqual(simplify([c(1, 3, true, 'r'), c(1, 3, false)]), ['-a']);
});

test('a rule for everything forgets those before it', () => {
  assert.deepEqual(simplify([c(1, 3, true), all(true), c(1, 4, false)]), ['+a', '-c 1:4 rwm']);
  assert.deepEqual(simplify([all(true), c(1, 4, false), all(false)]), ['-a']);
  assert.deepEqual(simplify(deviceRulesOf({ devices: [all(true)], hugepageLimits: [], unified: {} })), ['+a']);
});

test('the default devices are there once, whatever the document says of them', () => {
  const lines = simplify(deviceRulesOf({ devices: [all(false), c(1, 3, true, 'rwm'), c(136, undefined, true)], hugepageLimits: [], unified: {} }));
  assert.equal(lines.length, 11);
  assert.equal(new Set(lines).size, 11);
});

test('a part of a wider rule is refused, unless the parts have nothing in common', () => {
  const message = (text: string): object => ({ code: 'failedPrecondition', message: `linux.resources.devices: cgroup v1 cannot ${text} of it` });
  assert.throws(() => simplify([c(1, undefined, true), c(1, 3, false)]), message('allow c 1:* and deny c 1:3'));
  assert.throws(() => simplify([c(undefined, undefined, true), c(1, undefined, false)]), message('allow c *:* and deny c 1:*'));
  assert.throws(() => simplify([all(true), c(undefined, 3, false), c(1, 3, true)]), message('deny c *:3 and allow c 1:3'));
  assert.deepEqual(simplify([c(1, undefined, true, 'm'), c(1, 3, false, 'rw'), { ...c(1, 3, false), type: 'b' }]), ['-a', '+c 1:* m']);
});

/** The kernel's list: a default, and exceptions that are merged and taken back where type and numbers are the same. Source: security/device_cgroup.c. */
function kernelAllows(rules: readonly SpecDeviceRule[], access: string, [major, minor]: readonly [number, number]): boolean {
  let allowed = true;
  let list: { readonly key: string; access: string; readonly covers: boolean }[] = [];
  for (const rule of rules) {
    if (rule.type === 'a') {
      [allowed, list] = [rule.allow, []];
      continue;
    }
    const key = `${rule.major ?? '*'}:${rule.minor ?? '*'}`;
    const found = list.find((entry) => entry.key === key);
    const letters = rule.access ?? 'rwm';
    const covers = (rule.major ?? major) === major && (rule.minor ?? minor) === minor;
    if (rule.allow !== allowed) {
      if (found === undefined) list.push({ key, access: letters, covers });
      else found.access += letters;
    } else if (found !== undefined) found.access = [...found.access].filter((letter) => !letters.includes(letter)).join('');
  }
  return list.some((entry) => entry.covers && entry.access.includes(access)) !== allowed;
}

test('the kernel decides by the fewer rules as the last matching rule of the document does', () => {
  const numbers = [1, 2, undefined];
  const rules = [
    all(false),
    all(true),
    ...numbers.flatMap((major) => numbers.flatMap((minor) => [true, false].flatMap((allow) => ['r', 'rw'].map((access) => c(major, minor, allow, access))))),
  ];
  let [compared, refused] = [0, 0];
  for (const first of rules)
    for (const second of rules)
      for (const third of rules.filter((_rule, index) => index % 3 === 0)) {
        const document = [all(false), first, second, third];
        let simple: readonly SpecDeviceRule[];
        try {
          simple = simplifyDeviceRules(document, 'd');
        } catch {
          refused += 1;
          continue;
        }
        for (const access of ['r', 'w'])
          for (const device of [
            [1, 1],
            [1, 2],
            [2, 2],
          ] as const) {
            const matches = ({ type, major = device[0], minor = device[1], access: letters = 'rwm' }: SpecDeviceRule): boolean =>
              type === 'a' || (major === device[0] && minor === device[1] && letters.includes(access));
            assert.equal(kernelAllows(simple, access, device), document.findLast(matches)?.allow, JSON.stringify({ document, simple, access, device }));
            compared += 1;
          }
      }
  assert.ok(compared > 50_000 && refused > 100, `${compared} compared, ${refused} refused`);
});
