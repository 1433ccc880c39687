"use strict";
/* Distances of vectors, words of texts, and the scores by which ORDER BY puts items into an order. */

// ---------- vectors

const isVector = (value) => Array.isArray(value) && value.length > 0 && value.every((x) => typeof x === "number");
const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const DISTANCES = {
  cosine: (a, b) => dot(a, b) / (Math.sqrt(dot(a, a) * dot(b, b)) || 1),
  dotproduct: dot,
  euclidean: (a, b) => Math.sqrt(a.reduce((sum, x, i) => sum + (x - b[i]) ** 2, 0)),
};

const VECTOR_FUNCTIONS = {
  /** query.js puts the container's distance function first; the query's own options may name another. */
  VECTORDISTANCE_: (ofContainer, a, b, exact, options) => {
    if (!isVector(a) || !isVector(b) || a.length !== b.length) return undefined;
    return DISTANCES[(options?.distanceFunction || ofContainer).toLowerCase()]?.(a, b);
  },
};

// ---------- words

/** Stemming is a cut at the end of a word: an approximation of English. */
const stem = (word) => word.replace(/(?<=.{3})(ies|ing|ed|es|s|e|y)$/, "");
const wordsOf = (text) =>
  typeof text === "string" ? (text.toLowerCase().match(/[\p{L}\p{N}]+/gu) || []).map(stem) : [];

function hasPhrase(words, phrase) {
  const wanted = wordsOf(phrase);
  return wanted.length > 0 && words.some((_, at) => wanted.every((word, i) => words[at + i] === word));
}

const TEXT_FUNCTIONS = {
  FULLTEXTCONTAINS: (text, phrase) => hasPhrase(wordsOf(text), phrase),
  FULLTEXTCONTAINSALL: (text, ...phrases) => phrases.every((phrase) => hasPhrase(wordsOf(text), phrase)),
  FULLTEXTCONTAINSANY: (text, ...phrases) => phrases.some((phrase) => hasPhrase(wordsOf(text), phrase)),
};

// ---------- scores: one per text or item, higher is better

/** BM25 of each text for the terms; how rare a term is, is counted over `corpus`. */
function bm25(texts, terms, corpus, k1 = 1.2, b = 0.75) {
  const wanted = terms.flatMap(wordsOf);
  const all = corpus.map(wordsOf);
  const average = all.reduce((sum, words) => sum + words.length, 0) / (all.length || 1) || 1;
  const rarity = wanted.map((term) => {
    const having = all.filter((words) => words.includes(term)).length;
    return Math.log(1 + (all.length - having + 0.5) / (having + 0.5));
  });
  return texts.map(wordsOf).map((words) =>
    wanted.reduce((score, term, i) => {
      const count = words.filter((word) => word === term).length;
      return score + (rarity[i] * count * (k1 + 1)) / (count + k1 * (1 - b + (b * words.length) / average));
    }, 0)
  );
}

/** Reciprocal rank fusion: equal scores share a rank, null is last, a negative weight turns an order around. */
function fused(lists, weights, k = 60) {
  const totals = lists[0].map(() => 0);
  lists.forEach((scores, list) => {
    const weight = weights ? weights[list] : 1;
    const sign = weight < 0 ? -1 : 1;
    const ranked = scores
      .map((score, item) => ({ score: score === null ? -Infinity : score * sign, item }))
      .sort((a, b) => b.score - a.score);
    let rank = 0;
    ranked.forEach(({ score, item }, at) => {
      if (!at || score !== ranked[at - 1].score) rank = at + 1;
      totals[item] += Math.abs(weight) / (k + rank);
    });
  });
  return totals;
}

module.exports = { VECTOR_FUNCTIONS, TEXT_FUNCTIONS, bm25, fused };
