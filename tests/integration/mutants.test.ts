/**
 * A property of the OCI runtime: whatever a mutated config.json says, a container runs to its end or one clear error comes out, in bounded time, and nothing is left. The same
 * documents meet the decoder alone, in far greater number, in tests/config-mutations.test.ts.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { fullConfig, mutantOf } from '../config-mutations.ts';
import { OciHost, cgroupMounts, skipReason } from './oci-host.ts';

const mutantCount = 150;
/** Apart from those of the decoder's test. */
const firstSeed = 1_000_000;

describe('a mutated bundle', { skip: skipReason(), timeout: 280_000 }, () => {
  const host = new OciHost();
  after(async () => host[Symbol.asyncDispose]());
  const base = { ...fullConfig('rootfs', ['/bin/true']) };

  /** Groups of the name that a container has where its document names none. */
  const groupsOf = (id: string): readonly string[] => cgroupMounts().filter((mount) => existsSync(`${mount}/${id}`));

  test('runs as it is', async () => {
    const bundle = host.makeBundle(['true']);
    writeFileSync(join(bundle, 'config.json'), JSON.stringify(base));
    const result = await host.call(['run', '--bundle', bundle, host.newId()]);
    assert.equal(result.status, 0, result.stderr);
  });

  test(`${mutantCount} mutants run or are refused, and leave nothing`, async () => {
    const count = { ran: 0, refused: 0 };
    const bundle = host.makeBundle(['true']);
    for (let seed = firstSeed; seed < firstSeed + mutantCount; seed += 1) {
      const { text, changes } = mutantOf(seed, base);
      writeFileSync(join(bundle, 'config.json'), text);
      const id = host.newId();
      const { status, signal, stdout, stderr } = await host.call(['run', '--bundle', bundle, id], { input: '' });
      const what = `seed ${seed} (${changes.join('; ')}): ${status ?? signal}: ${stderr}${stdout}`;
      assert.equal(signal, null, what);
      if (status === 0) count.ran += 1;
      else {
        count.refused += 1;
        // One line of the runtime, or words of a program that was another one than /bin/true.
        assert.ok(stderr !== '' || stdout !== '' || changes.some((change) => /^(process|root)\b/.test(change)), what);
        assert.ok(!/bug:|TypeError|ReferenceError|    at /.test(stderr), what);
        assert.ok(
          stderr.split('\n').every((line) => /^[\x20-\x7e\t]*$/.test(line)),
          what,
        );
      }
      assert.deepEqual(existsSync(host.stateRoot) ? readdirSync(host.stateRoot) : [], [], what);
      assert.deepEqual(groupsOf(id), [], what);
    }
    assert.ok(count.ran > 10 && count.refused > 10, JSON.stringify(count));
  });
});
