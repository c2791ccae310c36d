"""Ontologies: readers, tree, roll-up (feature F5)."""

import json
from pathlib import Path

import pytest

from terareg.atlas.ontology import Ontology, Structure, read_ontology
from terareg.core.errors import AtlasError

ALLEN = Path(__file__).parents[3] / "shared" / "data" / "allen_ccf"

TREE = [
    Structure(997, "root", "root", None, "FFFFFF"),
    Structure(8, "grey", "Basic cell groups, and regions", 997, "BFDAE3"),
    Structure(567, "CH", "Cerebrum", 8, "B0F0FF"),
    Structure(614454277, "X", "Big", 8, "000011"),
    Structure(73, "VS", "ventricular systems", 997, "AAAAAA"),
]


def nested(tree=TREE):
    def entry(item):
        return {
            "id": item.id,
            "acronym": item.acronym,
            "name": item.name,
            "parent_structure_id": item.parent,
            "color_hex_triplet": item.colour,
            "children": [entry(c) for c in tree if c.parent == item.id],
        }

    return [entry(item) for item in tree if item.parent is None]


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_every_format_gives_the_same_ontology(tmp_path):
    wanted = Ontology(TREE)
    msg = write(tmp_path, "a.json", json.dumps({"success": True, "msg": nested()}))
    tree = write(tmp_path, "b.json", json.dumps(nested()[0]))
    flat = write(
        tmp_path,
        "c.json",
        json.dumps(
            [
                {
                    "id": s.id,
                    "acronym": s.acronym,
                    "name": s.name,
                    "structure_id_path": wanted.path(s.id),
                    "rgb_triplet": [int(s.colour[i : i + 2], 16) for i in (0, 2, 4)],
                }
                for s in TREE
            ]
        ),
    )
    allen = write(
        tmp_path,
        "d.csv",
        "id,atlas_id,name,acronym,structure_id_path,color_hex_triplet,parent_structure_id\n"
        + "".join(
            f'{s.id},,"{s.name}",{s.acronym},/{"/".join(map(str, wanted.path(s.id)))}/,'
            f"{s.colour.lstrip('0') if s.colour.isdigit() else s.colour},"
            f"{'' if s.parent is None else float(s.parent)}\n"
            for s in TREE
        ),
    )
    plain = write(
        tmp_path,
        "e.tsv",
        "id\tacronym\tname\tparent\tcolour\n0\tbg\tbackground\t\t\n"
        + "".join(f"{s.id}\t{s.acronym}\t{s.name}\t{s.parent or ''}\t#{s.colour}\n" for s in TREE),
    )
    own = tmp_path / "f.tsv"
    own.write_bytes(wanted.to_tsv())
    for path in (msg, tree, flat, allen, plain, own):
        assert read_ontology(path) == wanted, path.name


def test_order_and_relations_do_not_depend_on_the_order_given():
    ontology = Ontology(reversed(TREE))
    assert ontology.path(567) == [997, 8, 567]
    assert ontology.ancestors(567) == [8, 997]
    assert ontology.level(0) == [997]
    assert ontology.level(1) == [73, 8]
    assert ontology.depth(567) == 2
    assert ontology.find("CH").id == 567
    seen = set()
    for item in ontology:
        assert item.parent is None or item.parent in seen
        seen.add(item.id)


def test_parent_is_sum_of_children_plus_own():
    ontology = Ontology(TREE)
    total = ontology.roll_up({8: 1, 567: 10, 614454277: 100})
    assert total == {997: 111, 8: 111, 567: 10, 614454277: 100}
    assert list(total) == [997, 8, 567, 614454277]


def test_a_table_of_labels_without_acronyms_is_named_by_its_names(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("Label,Structure\n0,Background\n1,Hippocampus\n21,Hippocampus\n")
    found = [(item.id, item.acronym, item.name) for item in read_ontology(path)]
    assert found == [(1, "Hippocampus", "Hippocampus"), (21, "Hippocampus", "Hippocampus")]


def test_missing_colours_are_filled_and_stay(tmp_path):
    ontology = Ontology([Structure(5, "a", "a"), Structure(6, "b", "b")])
    colours = [s.colour for s in ontology]
    assert len(set(colours)) == 2 and all(len(c) == 6 for c in colours)
    path = tmp_path / "o.tsv"
    path.write_bytes(ontology.to_tsv())
    assert read_ontology(path) == ontology


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,acronym\n5,a\n", "line 2: name missing; .* but it has 'id', 'acronym'$"),
        ("id,acronym,name\n5,a,b\n6,,c\n", "line 3: acronym left blank, beside .6., .c.; fill"),
        ("id,acronym,name\nx,a,b\n", "id 'x' is not an integer"),
        ("id,acronym,name\n1.5,a,b\n", "id '1.5' is not an integer"),
        ("id,acronym,name\n5,a,b\n5,c,d\n", "id 5 is used twice"),
        ("id,acronym,name,parent\n5,a,b,6\n", "names parent 6, which is not in the ontology"),
        ("id,acronym,name,parent\n5,a,b,6\n6,c,d,5\n", "form a circle"),
        ("id,acronym,name\n4294967296,a,b\n", "not between 1 and 4294967295"),
        ("id,acronym,name,colour\n5,a,b,blue\n", "colour 'blue' is not of the form RRGGBB"),
        ("id,acronym,name,structure_id_path\n5,a,b,/1/2/\n", "does not end in the region's id"),
        ("id,acronym,name,structure_id_path,parent_structure_id\n5,a,b,/1/5/,2\n",
         "line 2: region 5 has the parent 2 but its path '/1/5/' names 1; correct one of them"),
        ("id,acronym,name,path,parent\n5,a,b,5,2\n", "parent 2 but its path '5' names 0"),
        ("id,structure_id,acronym,name\n5,6,a,b\n", "line 2: id is 5 but structure_id is 6; rem"),
        ("id,acronym,name,parent,parent_id\n5,a,b,1,2\n", "parent is 1 but parent_id is 2"),
        ("id,id,acronym,name\n5,6,a,b\n", "two of its columns are called 'id'; rename one"),
        ("id;acronym;name\n1.000;a;b\n", "id '1.000' is not an integer"),
        ('[{"id": 5, "acronym": "a", "name": "b", "rgb_triplet": [300, 0, 0]}]',
         r"colour \[300, 0, 0\] is not three numbers from 0 to 255"),
        ("id,acronym,name\n", "no regions found"),
        ("", "it is empty"),
        ('{"msg": 3}', "is not a list of regions"),
        ("[1, 2]", "entry 1 is 1, not a region"),
        ("[{", "cannot be read as JSON"),
    ],
)  # fmt: skip
def test_errors_name_the_line_and_the_remedy(tmp_path, text, message):
    with pytest.raises(AtlasError, match=message):
        read_ontology(write(tmp_path, "o.csv", text))


def test_absent_file(tmp_path):
    with pytest.raises(AtlasError, match=r"cannot be read .*correct atlases.NAME.ontology"):
        read_ontology(tmp_path / "none.csv")


def test_unknown_region_in_roll_up():
    with pytest.raises(AtlasError, match="no region with id 3"):
        Ontology(TREE).roll_up({3: 1})


@pytest.mark.skipif(not ALLEN.is_dir(), reason="shared/data/allen_ccf is absent")
def test_real_allen_ontology():
    table, tree = read_ontology(ALLEN / "ontology.csv"), read_ontology(ALLEN / "ontology.json")
    assert table == tree
    assert len(table) == 1327
    assert table.find("Isocortex").id == 315
    below = sum(997 in table.path(i) for i in table.ids)
    assert table.roll_up(dict.fromkeys(table.ids, 1))[997] == below
