/** Mutated documents through the decoder and the planner: a plan, or an error with a code and a place in the document, and nothing else. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { RuntimeError } from '#core';
import { decodeRuntimeSpec, parseJson } from '#oci';
import { encodePlan } from '#plan';
import { planContainer } from '#runtime';
import { hybridHost, v1Host, v2Host } from '../src/runtime/testdata/hosts.ts';
import { fullConfig, mutantOf } from './config-mutations.ts';

const base = fullConfig('rootfs', ['/bin/true']);
const mutantCount = 5000;

describe('a mutated config.json', () => {
  test('the base itself is planned on every host', () => {
    for (const host of [v1Host, hybridHost, v2Host]) {
      const spec = decodeRuntimeSpec(parseJson(JSON.stringify(base), 'config.json'));
      const plan = planContainer({ spec, rootfs: { kind: 'directory', path: '/bundle/rootfs' }, bundle: '/bundle', host, cgroup: { path: '/a' }, askIdentity: false });
      assert.ok(encodePlan(plan).length > 500);
    }
  });

  test(`${mutantCount} of them become plans or clear errors`, () => {
    const count = { planned: 0, refused: 0 };
    for (let seed = 0; seed < mutantCount; seed += 1) {
      const { text, changes } = mutantOf(seed, base);
      const host = [v1Host, hybridHost, v2Host][seed % 3] ?? v2Host;
      try {
        const spec = decodeRuntimeSpec(parseJson(text, 'config.json'));
        const hookPlace = { id: 'mutant', bundle: '/bundle' };
        encodePlan(planContainer({ spec, rootfs: { kind: 'directory', path: '/bundle/rootfs' }, bundle: '/bundle', host, cgroup: { path: '/a' }, askIdentity: false, hookPlace }));
        count.planned += 1;
      } catch (error) {
        const what = `seed ${seed} (${changes.join('; ')}): ${(error instanceof Error ? (error.stack ?? '') : String(error)).slice(0, 2000)}`;
        assert.ok(error instanceof RuntimeError, what);
        assert.ok(['invalidArgument', 'failedPrecondition', 'unimplemented'].includes(error.code), what);
        // `place: cause`, in what a terminal shows as it is, and short enough to be read.
        assert.match(error.message, /^[A-Za-z$_][\w.$[\]"/ -]*: [\x20-\x7e]+$/, what);
        assert.ok(error.message.length < 1000, what);
        count.refused += 1;
      }
    }
    assert.equal(count.planned + count.refused, mutantCount);
    // Both ends are reached, or the mutations would show nothing.
    assert.ok(count.planned > mutantCount / 20 && count.refused > mutantCount / 20, JSON.stringify(count));
  });
});
