/** proto/cri-v1.proto, as its generated descriptors know it, against the published interface in tests/fixtures/cri-v1.json. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import type { DescField, DescMessage } from '@bufbuild/protobuf';
import { ScalarType } from '@bufbuild/protobuf';
import { ImageService, RuntimeService, file_cri_v1 } from '#gen/cri-v1_pb.js';

interface PublishedInterface {
  readonly package: string;
  readonly services: Readonly<Record<string, readonly string[]>>;
  readonly enums: Readonly<Record<string, Readonly<Record<string, number>>>>;
  readonly messages: Readonly<Record<string, Readonly<Record<string, string>>>>;
}

// SAFETY: the fixture is ours and has this shape; a difference fails the comparisons below.
const published = JSON.parse(readFileSync(new URL('fixtures/cri-v1.json', import.meta.url), 'utf8')) as PublishedInterface;

function shortName(typeName: string): string {
  return typeName.slice(`${published.package}.`.length);
}

function singular(field: DescField): string {
  if (field.message !== undefined) return shortName(field.message.typeName);
  if (field.enum !== undefined) return shortName(field.enum.typeName);
  return field.scalar === undefined ? '?' : ScalarType[field.scalar].toLowerCase();
}

function describeType(field: DescField): string {
  const isDeprecated = field.deprecated ? ' (deprecated)' : '';
  if (field.fieldKind === 'map') return `map<${ScalarType[field.mapKey].toLowerCase()},${singular(field)}>${isDeprecated}`;
  return `${field.fieldKind === 'list' ? 'repeated ' : ''}${singular(field)}${isDeprecated}`;
}

function describeMessage(message: DescMessage): Record<string, string> {
  return Object.fromEntries(message.fields.map((field) => [`${field.number} ${field.name}`, describeType(field)]));
}

test('every message has exactly the published fields, numbers and types', () => {
  const described = Object.fromEntries(file_cri_v1.messages.map((message) => [message.name, describeMessage(message)]));
  assert.equal(Object.keys(described).length, 175);
  assert.deepEqual(described, published.messages);
});

test('every enum has exactly the published values', () => {
  const described = Object.fromEntries(file_cri_v1.enums.map((message) => [message.name, Object.fromEntries(message.values.map((value) => [value.name, value.number]))]));
  assert.deepEqual(described, published.enums);
});

test('both services have exactly the published methods', () => {
  const described = Object.fromEntries(
    [RuntimeService, ImageService].map((service) => [
      service.name,
      service.methods.map((method) => `${method.name}(${method.input.name}) -> ${method.methodKind === 'server_streaming' ? 'stream ' : ''}${method.output.name}`),
    ]),
  );
  assert.deepEqual(described, published.services);
  assert.deepEqual([RuntimeService.typeName, ImageService.typeName], ['runtime.v1.RuntimeService', 'runtime.v1.ImageService']);
});
