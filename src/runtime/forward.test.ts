/** The plan of a forwarded connection: what it gives up before it connects, and what is left to it afterwards. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { explainPlan } from '#plan';
import { planForward } from './forward.ts';
import { v2Host as host } from './testdata/hosts.ts';

test('a forwarded connection enters the network alone, has no rights when it connects, and can only copy afterwards', () => {
  const lines = explainPlan(planForward({ host, port: 8080, ownNetwork: true })).map((line) => line.trim());
  const order = [
    'enter the net namespace',
    'limit the bounding capabilities to 0x0',
    'become user 65535, group 65535',
    'set capabilities: effective 0x0',
    'forbid gaining privileges',
    'connect to 127.0.0.1 port 8080',
    'connect to [00000000000000000000000000000001] port 8080',
    'wait for the start request',
    'install a seccomp filter',
    'copy between slot',
  ];
  const found = order.map((text) => lines.findIndex((line) => line.includes(text)));
  assert.ok(!found.includes(-1), `${order[found.indexOf(-1)] ?? ''}: not in\n${lines.join('\n')}`);
  assert.deepEqual(
    found,
    found.toSorted((a, b) => a - b),
  );
});

test('a pod in the host network has no namespace to enter, and a port that is none is refused', () => {
  assert.ok(!explainPlan(planForward({ host, port: 1, ownNetwork: false })).some((line) => line.includes('namespace')));
  for (const port of [0, 65_536, 1.5, Number.NaN])
    assert.throws(() => planForward({ host, port, ownNetwork: true }), { code: 'invalidArgument', message: /^port: must be 1 to 65535/ });
});
