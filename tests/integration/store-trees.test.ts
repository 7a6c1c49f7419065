/**
 * Trees that Berth unpacks equal those of umoci and of Debian's containerd, entry by entry: type, mode, owner, time, link count, size, target,
 * content, devices, extended attributes. Needs root, docker-registry, skopeo, umoci, containerd and build/debian-image (scripts/make-debian-image.sh).
 */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { ImageStore } from '#image';
import { Layout, Registry, StoreHost, run, skipReason } from './image-host.ts';
import { layersOf, sixtyLayers, treeTricks } from './tree-tricks.ts';
import { Containerd, comparable, describeLeased, describeUmoci, missingPeer } from './trees.ts';

const debianImage = resolve(import.meta.dirname, '../../build/debian-image');

/** Why these trees cannot be compared here, or false. */
function whyNot(): string | false {
  return skipReason() || missingPeer() || (existsSync(join(debianImage, 'index.json')) ? false : 'needs build/debian-image');
}

describe('unpacked trees', { skip: whyNot() }, () => {
  const host = new StoreHost();
  const work = mkdtempSync(join(tmpdir(), 'berth-trees-'));
  let [store, registry, containerd]: [ImageStore?, Registry?, Containerd?] = [];
  const registryOf = (): Registry => {
    assert.ok(registry !== undefined);
    return registry;
  };

  before(async () => {
    [registry, containerd, store] = await Promise.all([Registry.start(), Containerd.start(), host.open()]);
  });
  after(async () => {
    await host[Symbol.asyncDispose]();
    await containerd?.[Symbol.asyncDispose]();
    await registry?.[Symbol.asyncDispose]();
    rmSync(work, { recursive: true, force: true });
  });

  /** Pushes an image of a layout and gives its reference. */
  const push = (image: string, repository: string): string => {
    const reference = `${registryOf().address}/${repository}`;
    run('skopeo', ['--insecure-policy', 'copy', '--dest-tls-verify=false', `oci:${image}`, `docker://${reference}`]);
    return reference;
  };
  const layoutOf = (name: string, layers: readonly Buffer[]): string => {
    const layout = new Layout(join(work, name));
    layout.add(layout.manifest({ layers }), 'x');
    return `${layout.dir}:x`;
  };
  const lease = async (reference: string): Promise<{ readonly storeDir: string; readonly lower: readonly string[] }> => {
    assert.ok(store !== undefined);
    return store.lease((await store.pull(reference)).id, reference);
  };
  const differs = (one: readonly string[], other: readonly string[]): string => {
    const [left, right] = [new Set(one), new Set(other)];
    return [...one.filter((line) => !right.has(line)).map((line) => `+ ${line}`), ...other.filter((line) => !left.has(line)).map((line) => `- ${line}`)].slice(0, 20).join('\n');
  };

  test("Debian's base system", async () => {
    const startedAtMs = Date.now();
    const reference = push(`${debianImage}:debian`, 'debian:1');
    containerd?.pull(reference);
    const [ours = []] = describeLeased([await lease(reference)]);
    const [theirs = []] = containerd?.describe([reference]) ?? [];
    assert.ok(ours.length > 10_000, `${ours.length} facts`);
    const [a = [], b = [], c = []] = comparable([ours, theirs, describeUmoci(`${debianImage}:debian`)], startedAtMs);
    assert.equal(differs(a, b), '', 'containerd');
    assert.equal(differs(a, c), '', 'umoci');
  });

  test('sixty layers that change, remove and cover what the ones below have', async () => {
    const startedAtMs = Date.now();
    const image = layoutOf('sixty', sixtyLayers());
    const reference = push(image, 'sixty:1');
    containerd?.pull(reference);
    const [ours = []] = describeLeased([await lease(reference)]);
    const [theirs = []] = containerd?.describe([reference]) ?? [];
    const [a = [], b = [], c = []] = comparable([ours, theirs, describeUmoci(image)], startedAtMs);
    assert.ok(a.length > 150, `${a.length} facts`);
    assert.equal(differs(a, b), '', 'containerd');
    assert.equal(differs(a, c), '', 'umoci');
  });

  test('every whiteout and link trick; where another unpacker differs, the list says so and is exact', async () => {
    const startedAtMs = Date.now();
    const tricks = Object.entries(treeTricks).map(([name, trick], index) => ({ name, trick, image: layoutOf(`trick-${index}`, layersOf(trick)), repository: `tricks:${index}` }));
    const pulled: { readonly name: string; readonly reference: string; readonly refused?: string }[] = [];
    const leases: { readonly storeDir: string; readonly lower: readonly string[] }[] = [];
    for (const { name, image, repository } of tricks) {
      const reference = push(image, repository);
      leases.push(await lease(reference));
      try {
        containerd?.pull(reference);
        pulled.push({ name, reference });
      } catch (error) {
        pulled.push({ name, reference, refused: String(error) });
      }
    }
    const ours = describeLeased(leases);
    const accepted = pulled.filter(({ refused }) => refused === undefined);
    const theirs = new Map((containerd?.describe(accepted.map(({ reference }) => reference)) ?? []).map((lines, index) => [accepted[index]?.name, lines]));
    const wrong: string[] = [];
    for (const [index, { name, trick, image }] of tricks.entries()) {
      const [a = [], b = [], c = []] = comparable([ours[index] ?? [], theirs.get(name) ?? [], describeUmoci(image)], startedAtMs);
      assert.ok(a.length > 30, `${name}: ${a.length} facts`);
      const peers: readonly (readonly [string, readonly string[], string | undefined])[] = [
        ['containerd', b, trick.containerdDiffers],
        ['umoci', c, trick.umociDiffers],
      ];
      for (const [peer, lines, reason] of peers) {
        const difference = differs(a, lines);
        if (difference !== '' && reason === undefined) wrong.push(`${name}: not as ${peer}:\n${difference}\n${pulled[index]?.refused ?? ''}`);
        if (difference === '' && reason !== undefined) wrong.push(`${name}: ${peer} is expected to differ (${reason}) and does not`);
      }
      assert.ok(trick.containerdDiffers === undefined || trick.umociDiffers === undefined, `${name}: nobody left to agree with`);
    }
    assert.equal(wrong.join('\n'), '');
  });
});
