/**
 * Images whose layers do what layers may do to each other: every whiteout, every kind of link, every replacement. In: nothing.
 * Out: names with the tar archives of their layers, base first. Each was looked at with two other unpackers that agree on it.
 */
import { setXattr, shell, tarOf } from './image-host.ts';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A tar of what a script makes, with the words for GNU tar's members given as they are, in their order. */
function rawTar(script: string, members: string): Buffer {
  const dir = mkdtempSync(join(tmpdir(), 'berth-trick-'));
  try {
    shell(`mkdir root; cd root; ${script}; tar -P --format=pax --xattrs --xattrs-include='*' --numeric-owner --no-recursion -cf ../layer.tar ${members}`, dir);
    return readFileSync(join(dir, 'layer.tar'));
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

const low = (): Buffer =>
  tarOf(`
  mkdir -p a/b/c keep/in dir/sub open/old/deep usr/lib links sticky; umask 022
  echo one > a/b/c/one; echo two > a/b/two; echo keep > keep/in/file; echo x > dir/sub/x; echo y > dir/y; echo o > open/old/deep/o
  echo lib > usr/lib/lib.so; ln -s usr/lib lib; ln -s ../a/b links/to-dir; ln -s /a/b/two links/absolute; ln -s nowhere links/dangling
  echo hard > links/h1; ln links/h1 links/h2; ln links/h1 links/h3; ln -s h1 links/s1; ln -P links/s1 links/s2
  chmod 1777 sticky; chown 10:20 a/b; chmod 0710 a/b; chown 7:8 usr/lib/lib.so; touch -d '2003-04-05 06:07:08.123456789' a/b/two
  find . -depth -exec touch -h -d '2004-05-06 07:08:09.987654321' {} +`);

/** The layers above the common base; where another unpacker is known to make something else of them, why. */
export interface TreeTrick {
  readonly above: () => readonly Buffer[];
  readonly umociDiffers?: string;
  readonly containerdDiffers?: string;
}

/** Name of a trick → what it is. */
export const treeTricks: Readonly<Record<string, TreeTrick>> = {
  'whiteouts of a file, a directory, links and one hard link of three': {
    above: () => [
      rawTar(
        'mkdir a a/b links; touch a/b/.wh.two .wh.keep links/.wh.h2 links/.wh.dangling links/.wh.to-dir .wh.lib',
        'a/b/.wh.two .wh.keep links/.wh.h2 links/.wh.dangling links/.wh.to-dir .wh.lib',
      ),
    ],
    umociDiffers: 'an overlay gives a file of a lower layer the link count it has there',
  },
  'whiteouts of what does not exist': { above: () => [rawTar('mkdir a; touch a/.wh.none .wh.absent', 'a/.wh.none .wh.absent')] },
  'a file removed and made again': { above: () => [rawTar('mkdir -p a/b; touch a/b/.wh.two; echo new > a/b/two', 'a/b/.wh.two a/b/two')] },
  'a directory removed and made again': {
    above: () => [rawTar('touch .wh.keep; mkdir keep; echo f > keep/new', '.wh.keep keep keep/new')],
    containerdDiffers: 'it forgets the removal, and what was in the directory shows again',
  },
  'a name made and removed: the removal means the layers below only': {
    above: () => [rawTar('mkdir -p a/b keep; touch a/b/.wh.two .wh.keep; echo new > a/b/two; echo f > keep/new', 'a/b/two a/b/.wh.two keep keep/new .wh.keep')],
    containerdDiffers: 'it fails: file exists',
  },
  'an opaque directory, its mark first': { above: () => [rawTar('mkdir open; echo n > open/new; touch open/.wh..wh..opq', 'open open/.wh..wh..opq open/new')] },
  'an opaque directory, its mark last and its directory not named': {
    above: () => [rawTar('mkdir open; echo n > open/new; touch open/.wh..wh..opq', 'open/new open/.wh..wh..opq')],
  },
  'an opaque directory that is filled again by the next layer': {
    above: () => [rawTar('mkdir open; touch open/.wh..wh..opq', 'open/.wh..wh..opq'), rawTar('mkdir -p open/old; echo again > open/old/again', 'open/old/again')],
  },
  'an opaque directory below one that is not': { above: () => [rawTar('mkdir -p a/b; touch a/b/.wh..wh..opq; echo 1 > a/b/1', 'a/b/.wh..wh..opq a/b/1')] },
  'whiteouts in an opaque directory': {
    above: () => [
      rawTar('mkdir -p open/in; touch open/.wh..wh..opq open/.wh.old open/in/.wh.x; echo n > open/new', 'open open/.wh..wh..opq open/.wh.old open/in open/in/.wh.x open/new'),
    ],
    containerdDiffers: 'its tree lists names that are not there',
  },
  'a directory becomes a file, a link, a FIFO': { above: () => [rawTar('echo f > dir; ln -s a keep; mkfifo open', 'dir keep open')] },
  'a file and links become directories': {
    above: () => [
      rawTar('mkdir -p a/b/two links/dangling links/to-dir; echo 1 > a/b/two/1; echo 2 > links/to-dir/2', 'a/b/two a/b/two/1 links/dangling links/to-dir links/to-dir/2'),
    ],
  },
  'a path through a link of the layer below': {
    above: () => [rawTar('mkdir -p lib links/to-dir; echo n > lib/new.so; echo m > links/to-dir/m', 'lib/new.so links/to-dir/m')],
    containerdDiffers: 'it unpacks without looking at the layers below, and puts a directory over the link',
  },
  'a whiteout through a link of the layer below': {
    above: () => [rawTar('mkdir lib; touch lib/.wh.lib.so', 'lib/.wh.lib.so')],
    containerdDiffers: 'it unpacks without looking at the layers below, and puts a directory over the link',
  },
  'hard links: to below, to the same layer, to a link, over an existing name': {
    above: () => [
      rawTar(
        'mkdir -p a/b links; echo two > a/b/two; ln a/b/two a/b/linked; echo mine > a/mine; ln a/mine a/other; ln a/mine links/absolute; ln -s ../a links/soft; ln -P links/soft links/softer',
        'a/mine a/other links/absolute links/soft links/softer',
      ),
    ],
  },
  'three layers that remove, make and remove': {
    above: () => [
      rawTar('mkdir -p dir; touch dir/.wh.sub; echo 1 > dir/one', 'dir/.wh.sub dir/one'),
      rawTar('mkdir -p dir/sub; echo 2 > dir/sub/two; touch dir/.wh.one', 'dir/sub dir/sub/two dir/.wh.one'),
      rawTar('mkdir -p dir/sub; echo 3 > dir/one; touch dir/sub/.wh.two', 'dir/one dir/sub/.wh.two'),
    ],
  },
  'attributes of the root itself': {
    above: () => [rawTar(`chown 3:4 .; chmod 1711 .; ${setXattr('.', 'user.root', 'r')}; touch -d '2012-03-04 05:06:07.123456789' .`, '.')],
    containerdDiffers: 'it leaves the entry of the root out',
  },
  'changed attributes of what is below': {
    above: () => [rawTar('mkdir -p a/b sticky; chmod 0500 a/b; chown 99:98 a/b; chmod 2750 sticky; touch -d "2011-01-01 01:01:01.000000001" a/b sticky', 'a/b sticky')],
  },
  'missing parents, a directory after its content, directories without permission': {
    above: () => [
      rawTar(
        'mkdir -p new/deep/er late/in closed; echo 1 > new/deep/er/1; echo 2 > late/in/2; chmod 0711 late/in; echo 3 > closed/3; chmod 0 closed',
        'new/deep/er/1 late/in/2 late/in late closed closed/3',
      ),
    ],
  },
  'the same name twice: the last one counts': {
    above: () => [Buffer.concat([rawTar('echo first > twice; mkdir both', 'twice both').subarray(0, -10240), rawTar('echo second > twice; echo now a file > both', 'twice both')])],
  },
  'odd names, long names, long link targets': {
    above: () => [
      rawTar(
        `d=$(printf 'd%.0s' $(seq 100)); mkdir -p odd/$d/$d/$d; echo 1 > "odd/with space"; echo 2 > odd/-dash; printf 3 > "odd/new
line"; echo 4 > odd/ünï; echo 5 > odd/$d/$d/$d/$(printf 'f%.0s' $(seq 255)); ln -s $(printf 't/%.0s' $(seq 400)) odd/link; echo 6 > 'odd/back\\slash'; echo 7 > odd/.wh; echo 8 > odd/wh.x`,
        '$(find odd -type d) odd/-dash odd/ünï $(find odd -name "fff*") odd/link odd/.wh odd/wh.x "odd/with space" "odd/new\nline" \'odd/back\\slash\'',
      ),
    ],
  },
  'times before 1970 and after 2038, to the nanosecond': {
    above: () => [
      rawTar(
        'mkdir t; echo 1 > t/old; echo 2 > t/new; ln -s x t/link; touch -d "1960-01-02 03:04:05.000000001" t/old; touch -d "2200-01-01 00:00:00.999999999" t/new; touch -h -d "1969-12-31 23:59:59.5" t/link',
        't t/old t/new t/link',
      ),
    ],
    containerdDiffers: 'it sets times before 1970 to 1970',
  },
  'large numbers: owners, devices': {
    above: () => [
      rawTar('mkdir n; echo 1 > n/f; chown 4000000000:3000000 n/f; mknod n/c c 200 70000; mknod n/b b 7 3; mkfifo n/p; chown 1:2 n/c n/p; chmod 0640 n/c', 'n n/f n/c n/b n/p'),
    ],
  },
  'set-user-id, set-group-id and sticky bits with owners': {
    above: () => [rawTar('mkdir s; cp /bin/busybox s/u; chown 5:6 s/u; chmod 6755 s/u; mkdir s/d; chown 0:7 s/d; chmod 3775 s/d', 's s/u s/d')],
  },
  'extended attributes of files and directories': {
    above: () => [
      rawTar(
        `mkdir x a; echo 1 > x/f; ${setXattr('x/f', 'user.one', 'value')}; ${setXattr('x/f', 'user.two', '2')}; ${setXattr('x', 'user.dir', 'd')}; ln x/f x/hard`,
        'x x/f x/hard',
      ),
    ],
  },
  'an empty extended attribute': { above: () => [rawTar(`echo 1 > e; ${setXattr('e', 'user.empty', "''")}`, 'e')], umociDiffers: 'it takes an empty one for none' },
  'a trusted extended attribute': { above: () => [rawTar(`echo 1 > t; ${setXattr('t', 'trusted.note', 'mine')}`, 't')], containerdDiffers: 'it leaves these out' },
  'a file capability': {
    above: () => [
      rawTar(
        `cp /bin/busybox cap; perl -e 'my $value = pack("V5", 0x02000001, 0x2000, 0, 0, 0); syscall($ARGV[0] + 0, $ARGV[1], $ARGV[2], $value, 20, 0) == 0 or die $!' ${process.arch === 'arm64' ? 5 : 188} cap security.capability`,
        'cap',
      ),
    ],
  },
  'sparse files': { above: () => [rawTar('truncate -s 8M hole; printf x | dd of=hole bs=1 seek=5000000 conv=notrunc status=none; truncate -s 1M empty', '--sparse hole empty')] },
  'empty files and an empty layer': { above: () => [rawTar('touch e; ln e f', 'e f'), rawTar('true', '-T /dev/null')] },
};

/** The layers of a trick, base first. */
export function layersOf(trick: TreeTrick): readonly Buffer[] {
  return [low(), ...trick.above()];
}

/** Sixty layers: directories that change owner and mode, whiteouts, opaque marks, links into layers far below. */
export function sixtyLayers(): Buffer[] {
  const layers = [low()];
  for (let index = 1; index < 60; index += 1) {
    const kinds: readonly (() => Buffer)[] = [
      () => rawTar(`mkdir -p a/b; echo ${index} > a/b/f${index}; chown ${index}:1 a/b/f${index}`, `a/b/f${index}`),
      () =>
        rawTar(
          `mkdir -p d${index} a/b; chmod 0${700 + (index % 7)} d${index}; echo ${index} > d${index}/f; touch a/b/.wh.f${index - 1}`,
          `d${index} d${index}/f a/b/.wh.f${index - 1}`,
        ),
      () =>
        rawTar(
          `mkdir -p links d${index - 1}; echo ${index} > links/n${index}; ln links/n${index} links/m${index}; touch d${index - 1}/.wh..wh..opq`,
          `links/n${index} links/m${index} d${index - 1}/.wh..wh..opq`,
        ),
      () =>
        rawTar(
          `mkdir -p usr/lib sticky; echo ${index} > usr/lib/l${index}; chmod 0${750 + (index % 8)} sticky; touch -d @${index * 1_000_000}.5 sticky`,
          `usr/lib/l${index} sticky`,
        ),
      () => rawTar(`mkdir -p usr/lib; echo again > usr/lib/again; mkfifo usr/p${index}; ln -s l${index - 1} usr/lib/s${index}`, `usr/lib/again usr/p${index} usr/lib/s${index}`),
    ];
    layers.push((kinds[index % kinds.length] ?? low)());
  }
  return layers;
}
